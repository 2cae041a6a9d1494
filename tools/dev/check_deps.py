#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks of the tree that a compiler does not make.

Fails, with a line "path:line: what" per finding, on
  - an include that layers.txt does not allow, and a folder that it does not list
  - "x_priv.h" included from another folder, and a quoted include that is not relative to the root
  - a restricted third-party header outside its folder
  - a banned function
  - a magic number that is used twice
  - a source file without its SPDX line, or with more than 1200 lines
  - with --headers: a header that does not compile alone
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

MAX_LINES = 1200
BANNED = {
    "strcpy": "snprintf or memcpy", "strcat": "struct tarn_str", "strncpy": "memcpy",
    "sprintf": "snprintf", "vsprintf": "vsnprintf", "strtok": "strtok_r", "gets": "getline",
    "atoi": "tarn_parse_u64", "localtime": "localtime_r", "gmtime": "gmtime_r",
    "alloca": "an array or the heap", "rand": "struct tarn_rng",
    "pthread_mutex_lock": "struct tarn_mtx",
}
BANNED_ALLOWED = {("lib/base/mtx.c", "pthread_mutex_lock")}
SOURCE = {".c", ".h", ".def"}
LICENSED = SOURCE | {".py", ".sh", ".cmake", ".proto"}
FREE = ("tests", "benchmarks")  # may include anything
SKIPPED_DIRS = {".git", "build", "__pycache__", ".pytest_cache"}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.M)
BANNED_CALL = re.compile(r"(?<![\w.])(?<!->)(%s)\s*\(" % "|".join(BANNED))
MAGIC_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w*MAGIC\w*)[ \t]+.*?\b(0[xX][0-9a-fA-F]+)", re.M)
MAGIC_CAST = re.compile(r"\bTARN_CAST\s*\([^;]*?\b(0[xX][0-9a-fA-F]+)[uUlL]*\s*\)")
TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def list_files(root):
    """Paths relative to the root: what git knows or would add, or everything where there is no git."""
    if (root / ".git").exists():
        out = subprocess.run(["git", "-c", f"safe.directory={root.resolve()}", "-C", str(root), "ls-files",
                              "-co", "--exclude-standard", "-z"], check=True, capture_output=True).stdout
        names = [n.decode() for n in out.split(b"\0") if n]
        return sorted(n for n in set(names) if (root / n).is_file())
    names = []
    for folder, dirs, files in os.walk(root):
        dirs[:] = [d for d in dirs if d not in SKIPPED_DIRS]
        names += [os.path.relpath(os.path.join(folder, f), root) for f in files]
    return sorted(names)


def blank(text, keep_strings=False):
    """The text with comments (and strings) replaced by spaces; lines keep their numbers."""
    def replace(m):
        token = m.group(0)
        if token[0] in "\"'" and keep_strings:
            return token
        return re.sub(r"[^\n]", " ", token)
    return TOKEN.sub(replace, text)


def line_of(text, pos):
    return text.count("\n", 0, pos) + 1


class Layers:
    """layers.txt: who may include whom, and whose third-party headers are whose."""

    def __init__(self, path):
        self.allowed = {}
        self.owner = {}  # header or folder of headers -> folder
        for nr, line in enumerate(path.read_text().splitlines(), 1):
            line = line.split("#")[0].strip()
            if not line:
                continue
            folder, sep, rest = line.partition(":")
            if not sep:
                raise SystemExit(f"{path}:{nr}: no ':'")
            lower, _, headers = rest.partition("|")
            self.allowed[folder.strip()] = lower.split()
            for header in headers.split():
                self.owner[header] = folder.strip()

    def folder_of(self, path):
        """The listed folder that a path is in, the deepest one; None if there is none."""
        best = None
        for folder in self.allowed:
            if path.startswith(folder + "/") and (best is None or len(folder) > len(best)):
                best = folder
        return best

    def may(self, folder, target):
        if folder == target:
            return True
        for pattern in self.allowed[folder]:
            if pattern in ("*", target) or (pattern.endswith("/*") and target.startswith(pattern[:-1])):
                return True
        return False

    def owner_of(self, header):
        for name, folder in self.owner.items():
            if header == name or (name.endswith("/") and header.startswith(name)):
                return folder
        return None


def check_quoted(layers, path, folder, header):
    """What is wrong with `#include "header"` in `path`, or None."""
    target = layers.folder_of(header)
    if target is None:
        return f'"{header}" is not relative to the root, or its folder is not in layers.txt'
    free = folder in FREE
    home = os.path.dirname(header)
    if header.endswith("_priv.h") and not f"{os.path.dirname(path)}/".startswith(f"{home}/") and not free:
        return f'"{header}" is private to {os.path.dirname(header)}'
    if not layers.may(folder, target):
        return f"{folder} may not include {target} (layers.txt)"
    return None


def check_includes(layers, path, text):
    folder = layers.folder_of(path)
    if folder is None:
        yield 1, f"folder {os.path.dirname(path) or '.'} is not in layers.txt"
        return
    code = blank(text, keep_strings=True)
    for m in INCLUDE.finditer(code):
        quote, header = m.groups()
        what = None
        if quote == '"':
            what = check_quoted(layers, path, folder, header)
        else:
            owner = layers.owner_of(header)
            if owner and owner != folder and folder not in FREE:
                what = f"<{header}> belongs to {owner}"
        if what:
            yield line_of(code, m.start()), what


def check_banned(path, text):
    code = blank(text)
    for m in BANNED_CALL.finditer(code):
        name = m.group(1)
        if (path, name) not in BANNED_ALLOWED:
            yield line_of(code, m.start()), f"{name}() is banned; use {BANNED[name]}"


def find_magics(text):
    code = blank(text)
    for m in MAGIC_DEFINE.finditer(code):
        yield line_of(code, m.start()), int(m.group(2), 16)
    for m in MAGIC_CAST.finditer(code):
        yield line_of(code, m.start()), int(m.group(1), 16)


def check_form(path, text):
    lines = text.splitlines()
    if not any("SPDX-License-Identifier:" in line for line in lines[:3]):
        yield 1, "no SPDX line"
    if len(lines) > MAX_LINES:
        yield len(lines), f"{len(lines)} lines, more than {MAX_LINES}"


def is_licensed(root, path):
    p = pathlib.PurePath(path)
    if p.suffix in LICENSED or p.name in ("CMakeLists.txt", "layers.txt"):
        return True
    if p.suffix:
        return False
    with open(root / path, "rb") as f:
        return f.read(2) == b"#!"


def check_tree(root):
    """All findings but those of --headers, as (path, line, what)."""
    layers = Layers(root / "tools/dev/layers.txt")
    magics = {}
    for path in list_files(root):
        if not is_licensed(root, path):
            continue
        text = (root / path).read_text(errors="replace")
        findings = list(check_form(path, text))
        if pathlib.PurePath(path).suffix in SOURCE:
            findings += check_includes(layers, path, text)
            findings += check_banned(path, text)
            for line, value in find_magics(text):
                if value in magics:
                    findings.append((line, f"magic {value:#x} is also at {magics[value]}"))
                else:
                    magics[value] = f"{path}:{line}"
        for line, what in findings:
            yield path, line, what


def header_flags(root, extra):
    flags = ["-std=gnu17", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", '-DTARN_VERSION="0"',
             "-Wall", "-Wextra", "-Werror", "-I", str(root)]
    for gen in sorted(root.glob("build/*/gen")):
        flags += ["-I", str(gen)]
    for folder in extra:
        flags += ["-I", folder]
    try:
        out = subprocess.run(["pkg-config", "--cflags", "fuse3"], capture_output=True, text=True)
        flags += out.stdout.split()
    except FileNotFoundError:
        pass
    return flags


def check_headers(root, compiler, extra):
    flags = header_flags(root, extra)

    def one(path):
        run = subprocess.run([compiler, *flags, "-fsyntax-only", "-x", "c", "-"],
                             input=f'#include "{path}"\n', capture_output=True, text=True, cwd=root)
        if run.returncode != 0:
            errors = [line for line in run.stderr.splitlines() if "error:" in line] or [run.stderr.strip()]
            return path, 1, "does not compile alone: " + errors[0]
        return None

    headers = [p for p in list_files(root) if p.endswith(".h")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [finding for finding in pool.map(one, headers) if finding]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    ap.add_argument("--headers", action="store_true", help="compile every header alone")
    ap.add_argument("--cc", default=os.environ.get("CC", "cc"), help="compiler for --headers")
    ap.add_argument("-I", dest="include", action="append", default=[], help="more include folders for --headers")
    args = ap.parse_args()

    findings = list(check_tree(args.root))
    if args.headers:
        findings += check_headers(args.root, args.cc, args.include)
    for path, line, what in findings:
        print(f"{path}:{line}: {what}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
