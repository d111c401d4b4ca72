"""A `gcloud` that notes its arguments and does what the desk says (desk.py).

It gives the first answer that is left for a call with these words; the last one stays. Without one it succeeds in silence,
after doing on `scp` and `ssh` what a slice would: copy a file to every host's home, and run the command in all of them at once.
"""

import json
import os
import sys


def main(words: list[str]) -> int:
    os.chdir(os.environ["DESK"])
    with open("calls", "a") as calls:
        calls.write(json.dumps(words) + "\n")
    with open("answers") as file:
        answers = json.load(file)
    for about, left in answers:
        if all(word in words for word in about.split()):
            status, out, err = left[0] if len(left) == 1 else left.pop(0)
            with open("answers", "w") as file:
                json.dump(answers, file)
            sys.stdout.write(out)
            sys.stderr.write(err)
            return int(status)
    return on_hosts(words) if {"ssh", "scp"} & set(words) else 0


def on_hosts(words: list[str]) -> int:
    import shutil  # here, because most calls do without and should be quick
    import subprocess

    homes = sorted(os.path.abspath(name) for name in os.listdir() if name.startswith("host"))
    if "scp" in words:
        for home in homes:
            shutil.copy(words[4], os.path.join(home, words[5].partition(":")[2]))
        return 0
    command = next(word for word in words if word.startswith("--command=")).removeprefix("--command=")
    hosts = [
        subprocess.Popen(["bash", "-c", command], cwd=home, env={**os.environ, "HOME": home, "TMPDIR": home}) for home in homes
    ]
    return max([host.wait() for host in hosts], default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
