"""The benchmark's own machinery; its times are not tested."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.policies.fixed import static
from experiments.bench import ragged, schedule, subject
from experiments.bench.measure import alternate, compilations, quotient
from experiments.bench.scripted import ScriptedDecoder, long_tail
from experiments.bench_decode import MEANING, PARTS, BenchDecode, main
from tests.decoding.counting_lm import VOCABULARY, CountingLM, successor_table


def test_sides_take_turns() -> None:
    called: list[str] = []
    sides = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    times = alternate(sides, 2)
    assert called == ["a", "b"] * 3
    assert [len(times[name]) for name in "ab"] == [2, 2]


def test_quotient_is_the_median_of_the_rounds() -> None:
    assert quotient({"above": [2.0, 9.0, 30.0], "below": [1.0, 3.0, 5.0]}, "above", "below") == 3.0


def test_compilations_of_one_function_are_counted() -> None:
    @jax.jit
    def counted(x: jax.Array) -> jax.Array:
        return x + 1

    with compilations("counted") as seconds:
        for size in (2, 3, 2):
            counted(jnp.ones(size))
        jax.jit(lambda x: x * 3)(jnp.ones(5))
    assert len(seconds) == 2


def test_long_tail_has_the_mean_and_the_longest() -> None:
    lengths = long_tail(4000, 32, 256)
    assert abs(lengths.mean() - 32) < 0.5
    assert lengths.min() >= 1
    assert lengths.max() == 256
    assert np.median(lengths) < 22  # a tail, and not a bell
    assert (long_tail(5, 32, 32) == 32).all()


def test_scripted_completions_end_where_the_script_says() -> None:
    """Also those that move on the way (budget 260: the first ring leaves 160 new tokens)."""
    lengths = np.array([1, 3, 100, 2, 7, 260, 1, 40], np.int32)
    stop = VOCABULARY - 1
    decoder = ScriptedDecoder(CountingLM(jnp.asarray(successor_table(0.0))), jnp.asarray(lengths), stop)
    prompts = [subject.Prompt(f"prompt {index}", [index, 3, 4], 260) for index in range(8)]
    done = rollout(decoder, static(1.0), prompts, key=jax.random.key(0), stop_ids=[stop], rows=3, chunk=4)
    assert done.lengths.tolist() == lengths.tolist()
    assert done.stopped.all()
    assert all(stop not in done.new_tokens(n)[:-1] for n in range(8))


def test_batches_without_refill_do_the_same_work() -> None:
    lengths = long_tail(6, 8, 20)
    model = subject.Subject("tiny", *subject.load_decoder("tiny"), rows=3, prompt_tokens=5, new_tokens=8, repeats=1)
    work = ragged.Work(model, lengths)
    assert work.run(3).lengths.tolist() == lengths.tolist()
    harvested = ragged.without_refill(work, work.prompts[:3], int(lengths[:3].max()))
    assert harvested.lengths.tolist() == lengths[:3].tolist()


def test_figures_are_written(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    bars = main(BenchDecode(model="tiny", only=("prompt_tokens_per_prompt",), out=out))
    assert bars == {"prompt_tokens_per_prompt": 256.0}
    content = json.loads(out.read_text())
    assert content["bars"] == bars
    assert content["environment"]["devices"]


def test_columns_are_counted_as_attention_reads_them() -> None:
    """Two rows, a ring of 64 columns: six completions of 3 tokens take 9 steps, whatever their prompts."""
    assert schedule.columns_of(np.array([1, 3]), 10) == 11 + (11 + 12 + 13)
    done = schedule._scripted(np.full(6, 3, np.int32), [[index, 5, 5] for index in range(6)], rows=2)
    assert (done.row_steps, done.columns) == (2 * 9, 2 * 9 * 64)


def test_every_bar_has_a_part_and_a_meaning() -> None:
    assert sorted(name for names in PARTS.values() for name in names) == sorted(MEANING)


def test_qwen3_4b_has_its_number_of_parameters() -> None:
    """4.02 billion: 36 layers and one embedding, by the shapes alone."""
    c = subject.qwen3_4b()
    attention = c.hidden_size * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads) + 2 * c.head_dim
    layer = attention + 3 * c.hidden_size * c.intermediate_size + 2 * c.hidden_size
    total = c.num_layers * layer + c.vocab_size * c.hidden_size + c.hidden_size
    shapes = jax.tree.leaves(subject.shape_of(c, jnp.bfloat16))
    assert sum(leaf.size for leaf in shapes) == total == 4_022_468_096


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rows": 0}, "--rows 0"),
        ({"repeats": 0}, "--repeats 0"),
        ({"out": Path("nowhere/at/all.json")}, "--out nowhere/at/all.json"),
    ],
)
def test_bad_flags_are_named(flags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchDecode(**flags)


def test_a_side_that_is_not_installed_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(BenchDecode(model="tiny", against=("tunix",), tunix_python="/nowhere/python"))
    assert ended.value.code == 2
    assert "--tunix-python /nowhere/python" in capsys.readouterr().err
