#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tools/dev/run_fuzz.py [--seconds N] [--wall N] [--jobs N] [TARGET...] - run the fuzz targets and check what they reach.

Each target runs N seconds on its corpus (tests/fuzz/corpus/TARGET) in a scratch copy, then the coverage of the decoder files
that tests/fuzz/targets.txt names for it must be at least 80 % of their lines. A crash, a leak or an input that takes longer than
ten seconds fails, and the input is kept under build/fuzz-findings. Where other processes take the processor, --wall allows a
target more time until it has had its seconds of the processor; libFuzzer knows only the clock, so it is started again for
what it has missed.
"""
import argparse
import concurrent.futures
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, "build/fuzz")
FINDINGS = os.path.join(ROOT, "build/fuzz-findings")
LINES_MIN = 80.0
SLOW_SECONDS = 10  # for one input
SLOW_EXIT = 70     # of libFuzzer
ROUND_MIN = 5      # a shorter run is not worth its start


def llvm(tool):
    """The tool of the clang that built the targets: llvm-cov, or llvm-cov-14 where only that exists."""
    names = [tool] + sorted((os.path.basename(p) for p in glob.glob(f"/usr/bin/{tool}-[0-9]*")), reverse=True)
    for name in names:
        if shutil.which(name):
            return name
    sys.exit(f"run_fuzz: {tool} is not installed (tools/setup --tests)")


def targets():
    rows = {}
    with open(os.path.join(ROOT, "tests/fuzz/targets.txt"), encoding="utf-8") as f:
        for line in f:
            words = line.split("#")[0].split()
            if words:
                rows[words[0]] = words[1:]
    return rows


class Children:
    """The programs that run, so that a signal leaves none behind."""

    def __init__(self):
        self.gate = threading.Lock()
        self.running = set()

    def start(self, args, env, output):
        with self.gate:
            # Not with its context manager: what it used of the processor is told only to the one that reaps it.
            process = subprocess.Popen(args, env=env, stdout=output, stderr=subprocess.STDOUT)  # pylint: disable=consider-using-with
            self.running.add(process)
        return process

    def end(self, scratch):
        """For the main thread, which starts none: no other begins from here on."""
        self.gate.acquire()  # pylint: disable=consider-using-with
        for process in list(self.running):
            process.kill()
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(128 + signal.SIGTERM)


CHILDREN = Children()


def execute(args, env, limit):
    """(exit code, seconds of the processor, output) of a program; one that does not end is killed after limit seconds."""
    with tempfile.TemporaryFile() as output:
        process = CHILDREN.start(args, env, output)
        timer = threading.Timer(limit, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        CHILDREN.running.discard(process)
        timer.cancel()
        output.seek(0)
        return process.returncode, usage.ru_utime + usage.ru_stime, output.read().decode(errors="replace")


def only_starved(binary, prefix, env):
    """Whether the inputs that took too long did so because the processor was elsewhere; then they are no findings."""
    inputs = glob.glob(prefix + "timeout-*")
    for path in inputs:
        code, used, _ = execute([binary, f"-timeout={20 * SLOW_SECONDS}", path], env, 30 * SLOW_SECONDS)
        if code != 0 or used > SLOW_SECONDS:
            return False
    for path in inputs:
        os.unlink(path)
    return bool(inputs)


def run(name, seconds, wall, scratch):
    binary = os.path.join(BUILD, "tests/fuzz", "fuzz_" + name)
    corpus = os.path.join(ROOT, "tests/fuzz/corpus", name)
    work, found = os.path.join(scratch, name), os.path.join(scratch, name + ".found")
    os.makedirs(work)
    os.makedirs(found)
    args = [binary, work] + ([corpus] if os.path.isdir(corpus) else [])
    args += [f"-timeout={SLOW_SECONDS}", "-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={found}/"]
    dictionary = os.path.join(ROOT, "tests/fuzz", name + ".dict")
    if os.path.exists(dictionary):
        args.append("-dict=" + dictionary)
    end = time.monotonic() + max(seconds, wall)
    left, total, rounds = seconds, 0, 0
    while True:
        env = dict(os.environ, LLVM_PROFILE_FILE=os.path.join(scratch, f"{name}.{rounds}.profraw"))
        rounds += 1
        code, used, output = execute(args + [f"-max_total_time={int(left)}"], env, left + 120)
        total += sum(int(line.split(":")[-1]) for line in output.splitlines() if "number_of_executed_units" in line)
        left = min(left - used, end - time.monotonic())
        if code == SLOW_EXIT and wall > seconds and only_starved(binary, found + "/", dict(env, LLVM_PROFILE_FILE="/dev/null")):
            code, left = 0, max(left, ROUND_MIN)  # such a run has not told what it reached
        if code != 0 or left < ROUND_MIN:
            break
    for path in glob.glob(found + "/*"):
        os.makedirs(FINDINGS, exist_ok=True)
        shutil.move(path, os.path.join(FINDINGS, name + "-" + os.path.basename(path)))
    return code, total, output


def coverage(name, files, scratch):
    """{file: percent of lines} that the run reached."""
    binary = os.path.join(BUILD, "tests/fuzz", "fuzz_" + name)
    profile = os.path.join(scratch, name + ".profdata")
    subprocess.run([llvm("llvm-profdata"), "merge", "-sparse", *glob.glob(os.path.join(scratch, name + ".*.profraw")), "-o", profile],
                   check=True)
    out = subprocess.run([llvm("llvm-cov"), "export", "-summary-only", binary, "-instr-profile", profile]
                         + [os.path.join(ROOT, f) for f in files], check=True, capture_output=True, text=True).stdout
    found = {}
    for row in json.loads(out)["data"][0]["files"]:
        found[os.path.relpath(row["filename"], ROOT)] = row["summary"]["lines"]["percent"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--wall", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    rows = targets()
    names = args.names or sorted(rows)
    failed = 0
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        signal.signal(signal.SIGTERM, lambda *_: CHILDREN.end(scratch))
        runs = {name: pool.submit(run, name, args.seconds, args.wall, scratch) for name in names}
        for name, future in runs.items():
            code, count, output = future.result()
            problems = [] if code == 0 else [f"exit {code}"]
            lines = {}
            if code == 0:
                lines = coverage(name, rows[name], scratch)
                problems += [f"{f}: only {lines.get(f, 0):.1f} % of lines reached" for f in rows[name] if lines.get(f, 0) < LINES_MIN]
            reached = ", ".join(f"{f} {lines.get(f, 0):.0f} %" for f in rows[name])
            print(f"{'FAILED' if problems else 'ok':6} {name}: {count} runs; {reached}", flush=True)
            for problem in problems:
                print(f"       {problem}", flush=True)
            if code != 0:
                print("\n".join(output.splitlines()[-40:]), flush=True)
            failed += bool(problems)
    print(f"{len(names) - failed} passed, {failed} failed")
    return 1 if failed or not names else 0


if __name__ == "__main__":
    sys.exit(main())
