#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Many rounds of the table of faults, with seeds: outside CI, by hand or for a night.

    tests/fault_rounds.py --rounds 100 --seed 7 [--jobs 8 --pause 0.1] [--only worker:kill] [--long SECONDS] [--keep DIR]

Each round runs every cell of tests/lib/faults.py, those with a real store too, in an order drawn from
its seed, and prints a line for each: calls that were under way when the fault began and at its end, calls,
the longest in seconds, how long until all went on, errors. A cell that fails is told with its logs, and
with the line that repeats it. Exit 1 then. --jobs runs several cells at a time; --pause gives the processors
to more of them, since readers rest then between two calls. Root; TARN_BIN names the binary (default:
build/release/tarn).
"""
import argparse
import concurrent.futures
import contextlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.lib import faults, util  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round; they count up")
    parser.add_argument("--only", action="append", default=[], metavar="TARGET[:FAULT]")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--long", type=float, default=30.0, metavar="SECONDS", help="that a part stands still or is cut off")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="of a reader after each call")
    parser.add_argument("--keep", metavar="DIR", help="where logs of failed cells are kept")
    return parser.parse_args()


def cells(only):
    """[(target, fault)] that were asked for."""
    every = [(t, f) for t in faults.TARGETS for f in faults.FAULTS] + list(faults.REAL)
    found = [(t, f) for t, f in every
             if not only or any(o in (t, f"{t}:{f}") for o in only)]
    if not found:
        sys.exit(f"no such cell; targets: {' '.join(faults.TARGETS)} swift; faults: {' '.join(faults.FAULTS)}")
    return found


def keep_logs(cell, directory):
    print(cell.cluster.logs(15), flush=True)
    if directory:
        place = os.path.join(directory, f"{cell.seed}-{cell.target}-{cell.fault}")
        os.makedirs(place, exist_ok=True)
        for part in cell.cluster.parts():
            if os.path.exists(part.log):
                shutil.copy(part.log, place)


def one(target, fault, seed, keep):
    """The Result of one cell; a failure is printed."""
    caught = []
    directory = tempfile.mkdtemp(prefix="tarn-faults-", dir=os.environ.get("TARN_TEST_DIR"))

    def failed(cell):
        caught.append(cell.result)
        keep_logs(cell, keep)

    try:
        return faults.run_cell(directory, target, fault, seed, failed)
    except Exception as e:  # whatever it was: the next cells are run all the same
        print(f"{target} {fault}: {e}\nagain: {sys.argv[0]} --seed {seed} --only {target}:{fault}",
              flush=True)
        result = caught[0] if caught else faults.Result(target, fault, str(seed))
        result.failure = result.failure or str(e)
        return result
    finally:
        util.unmount_below(directory)
        shutil.rmtree(directory, ignore_errors=True)
        util.give_ports_back()


def end(*_):
    """TERM ends it as Ctrl-C does: what the cells have started and mounted goes first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for process in multiprocessing.active_children():
        process.terminate()
    sys.exit(143)


def told(work):
    """one() in a process of its own: the Result, and what it printed."""
    signal.signal(signal.SIGTERM, end)
    target, fault, seed, keep, faults.LONG, faults.PAUSE, faults.MARGIN = work
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            result = one(target, fault, seed, keep)
    except SystemExit as e:
        os._exit(e.code)  # the pool would begin the next cell
    return result, out.getvalue()


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, end)
    wanted = cells(args.only)
    margin, work = faults.MARGIN + 0.5 * (args.jobs - 1), []
    for number in range(args.rounds):
        order = list(wanted)
        random.Random(args.seed + number).shuffle(order)
        work += [(target, fault, args.seed + number, args.keep, args.long, args.pause, margin) for target, fault in order]
    print(f"{args.rounds} rounds of {len(wanted)}, seeds {args.seed} to {args.seed + args.rounds - 1}\n"
          f"seed    {faults.HEADER}", flush=True)
    begun, results = time.monotonic(), []
    with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
        cells_of = [pool.submit(told, cell) for cell in work]
        try:
            for done in concurrent.futures.as_completed(cells_of):
                result, out = done.result()
                results.append(result)
                print(f"{out}{result.seed:7} {result.row()}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failed = [r for r in results if r.failure]
    for r in failed:
        print(f"failed: seed {r.seed} {r.target}:{r.fault}: {r.failure.splitlines()[0]}")
    print(f"{sum(r.met for r in results)} calls met a fault, {sum(r.calls for r in results)} in all, "
          f"the longest {max(r.longest for r in results):.2f} s; {(time.monotonic() - begun) / 60:.0f} minutes")
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
