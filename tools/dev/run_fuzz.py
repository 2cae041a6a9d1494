#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tools/dev/run_fuzz.py [--seconds N] [--jobs N] [TARGET...] - run the fuzz targets and check what they reach.

Each target runs N seconds on its corpus (tests/fuzz/corpus/TARGET) in a scratch copy, then the coverage of the decoder files
that tests/fuzz/targets.txt names for it must be at least 80 % of their lines. A crash, a leak or an input that takes longer than
ten seconds fails, and the input is kept under build/fuzz-findings.
"""
import argparse
import concurrent.futures
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, "build/fuzz")
FINDINGS = os.path.join(ROOT, "build/fuzz-findings")
LINES_MIN = 80.0


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


def run(name, seconds, scratch):
    binary = os.path.join(BUILD, "tests/fuzz", "fuzz_" + name)
    corpus = os.path.join(ROOT, "tests/fuzz/corpus", name)
    work = os.path.join(scratch, name)
    os.makedirs(work)
    os.makedirs(FINDINGS, exist_ok=True)
    args = [binary, work] + ([corpus] if os.path.isdir(corpus) else [])
    args += [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1",
             f"-artifact_prefix={FINDINGS}/{name}-"]
    dictionary = os.path.join(ROOT, "tests/fuzz", name + ".dict")
    if os.path.exists(dictionary):
        args.append("-dict=" + dictionary)
    env = dict(os.environ, LLVM_PROFILE_FILE=os.path.join(scratch, name + ".profraw"))
    done = subprocess.run(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          timeout=seconds + 120, check=False)
    runs = next((line.split(":")[-1].strip() for line in done.stdout.splitlines() if "number_of_executed_units" in line), "?")
    return done.returncode, runs, done.stdout


def coverage(name, files, scratch):
    """{file: percent of lines} that the run reached."""
    binary = os.path.join(BUILD, "tests/fuzz", "fuzz_" + name)
    profile = os.path.join(scratch, name + ".profdata")
    subprocess.run([llvm("llvm-profdata"), "merge", "-sparse", os.path.join(scratch, name + ".profraw"), "-o", profile], check=True)
    out = subprocess.run([llvm("llvm-cov"), "export", "-summary-only", binary, "-instr-profile", profile]
                         + [os.path.join(ROOT, f) for f in files], check=True, capture_output=True, text=True).stdout
    found = {}
    for row in json.loads(out)["data"][0]["files"]:
        found[os.path.relpath(row["filename"], ROOT)] = row["summary"]["lines"]["percent"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    rows = targets()
    names = args.names or sorted(rows)
    failed = 0
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runs = {name: pool.submit(run, name, args.seconds, scratch) for name in names}
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
