# SPDX-License-Identifier: Apache-2.0
"""tools/dev: each violation in a small tree of its own is found, and a clean tree passes."""
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECK = ROOT / "tools/dev/check_deps.py"
GEN = ROOT / "tools/dev/gen_docs.py"
SPDX = "/* SPDX-License-Identifier: Apache-2.0 */\n"

CLEAN = {
    "lib/base/a.h": "#pragma once\n#include <stddef.h>\nsize_t tarn_a(void);\n",
    "lib/base/a.c": '#include "lib/base/a.h"\n\n/* strcpy(a, b) in a comment */\nsize_t tarn_a(void)\n'
                    '{\n    return sizeof("atoi(x)");\n}\n',
    "lib/base/mtx.c": "#include <pthread.h>\nvoid f(void)\n{\n    pthread_mutex_lock(0);\n}\n",
    "lib/net/net.c": '#include "lib/base/a.h"\n#include <uv.h>\n#define NET_MAGIC 0x1000u\n',
    "lib/net/net_priv.h": "#pragma once\n",
    "lib/net/other.c": '#include "lib/net/net_priv.h"\n',
    "tests/unit/test_a.c": '#include "lib/net/net_priv.h"\n#include <uv.h>\n',
}


def make(path, files):
    """A tree with the files (each gets its SPDX line) and the real layers.txt."""
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text if name.endswith((".py", ".md", ".cmake")) else SPDX + text)
    (path / "tools/dev").mkdir(parents=True, exist_ok=True)
    (path / "tools/dev/layers.txt").write_text((ROOT / "tools/dev/layers.txt").read_text())
    return path


def run(tool, root, *args):
    return subprocess.run([sys.executable, str(tool), "--root", str(root), *args],
                          capture_output=True, text=True, timeout=60, check=False)


def test_clean_tree_passes(tmp_path):
    r = run(CHECK, make(tmp_path, CLEAN))
    assert (r.returncode, r.stdout) == (0, "")


VIOLATIONS = [
    ("lib/base/b.c", '#include "lib/net/net.h"\n', 2, "lib/base may not include lib/net"),
    ("lib/rpc/b.c", '\n#  include "ufs/ufs.h"\n', 3, "lib/rpc may not include ufs"),
    ("worker/b.c", '#include "fuse/f.h"\n', 2, "worker may not include fuse"),
    ("master/b.c", '#include "store/tier/t.h"\n', 2, "master may not include store/tier"),
    ("lib/rpc/b.c", '#include "lib/net/net_priv.h"\n', 2, "private to lib/net"),
    ("master/svc/b.c", '#include "master/core/core_priv.h"\n', 2, "private to master/core"),
    ("lib/base/b.c", '#include "a.h"\n', 2, "not relative to the root"),
    ("lib/rpc/b.c", "#include <uv.h>\n", 2, "<uv.h> belongs to lib/net"),
    ("master/b.c", "#include <rocksdb/c.h>\n", 2, "belongs to store/kv"),
    ("lib/stat/b.c", "#include <cyaml/cyaml.h>\n", 2, "belongs to lib/conf"),
    ("common/b.c", "", 1, "folder common is not in layers.txt"),
    ("b.c", "", 1, "folder . is not in layers.txt"),
    ("lib/base/b.c", "#define B_MAGIC 0x1000u\n", 2, "magic 0x1000 is also at"),
    ("lib/base/b.c", "void f(void *p)\n{\n    struct s *s;\n    TARN_CAST(s, p, 0x1000);\n}\n", 5, "magic 0x1000"),
    ("lib/base/b.c", "\n" * 1200, 1201, "1201 lines, more than 1200"),
]


@pytest.mark.parametrize("name,text,line,what", VIOLATIONS)
def test_violation_is_found(tmp_path, name, text, line, what):
    r = run(CHECK, make(tmp_path, {**CLEAN, name: text}))
    assert r.returncode == 1
    found = r.stdout.splitlines()
    assert len(found) == 1, r.stdout
    if "magic" not in what:  # whichever of the two comes second is named
        assert found[0].startswith(f"{name}:{line}: ")
    assert what in found[0]


@pytest.mark.parametrize("name", ["strcpy", "strcat", "strncpy", "sprintf", "strtok", "gets", "atoi", "localtime",
                                  "gmtime", "alloca", "rand", "pthread_mutex_lock"])
def test_banned_function(tmp_path, name):
    body = f"void f(void)\n{{\n    {name} (0);\n    tarn_{name}(0);\n    x->{name}(0);\n    x.{name}(0);\n}}\n"
    r = run(CHECK, make(tmp_path, {**CLEAN, "lib/base/b.c": body}))
    assert r.returncode == 1
    assert re.fullmatch(rf"lib/base/b\.c:4: {name}\(\) is banned; use .*\n", r.stdout), r.stdout


def test_spdx_line(tmp_path):
    tree = make(tmp_path, {**CLEAN, "tools/a.py": "import os\n", "tests/unit/a.cmake": "set(a b)\n", "docs/a.md": "#\n"})
    (tree / "tools/run").write_text("#!/bin/sh\n")
    (tree / "tools/ok").write_text("#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n")
    r = run(CHECK, tree)
    assert r.stdout == "tests/unit/a.cmake:1: no SPDX line\ntools/a.py:1: no SPDX line\ntools/run:1: no SPDX line\n"
    assert r.returncode == 1


def test_git_ignored_files_are_left_alone(tmp_path):
    tree = make(tmp_path, {**CLEAN, "out/b.c": "", "lib/base/new.c": "int x(void) { return rand(); }\n"})
    (tree / ".gitignore").write_text("out/\n")
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    r = run(CHECK, tree)
    assert r.stdout == "lib/base/new.c:2: rand() is banned; use struct tarn_rng\n"


def test_headers_compile_alone(tmp_path):
    tree = make(tmp_path, CLEAN)
    assert run(CHECK, tree, "--headers").returncode == 0
    (tree / "lib/base/b.h").write_text(SPDX + "#pragma once\nsize_t tarn_b(void);\n")
    r = run(CHECK, tree, "--headers")
    assert r.returncode == 1
    assert r.stdout.startswith("lib/base/b.h:1: does not compile alone: ")


TABLES = {
    "lib/base/err.def": 'TARN_ERR(LATE, 1003, ETIMEDOUT, NEVER, TIMEOUT, "too late, sorry")\n'
                        'TARN_ERR(FULL, 1001, ENOSPC, BACKOFF, FAIL, "full")\n',
    "worker/worker_params.def": 'TARN_PARAM(cache_size, SIZE, "10GiB", "1MiB", "", "bytes", RUNTIME,\n'
                                '           "Bytes, \\"all\\" | "\n           "of them.")\n'
                                "/* TARN_PARAM(old, BOOL, \"\", \"\", \"\", \"\", 0, \"gone\") */\n"
                                'TARN_PARAM(knob, UINT, "1", "", "", "", HIDDEN, "For tests.")\n'
                                'TARN_PARAM(key, STRING, "", "", "", "", SECRET, "Key.")\n',
    "worker/worker_params.c": "static const struct tarn_conf_param rows[] = {\n#define TARN_PARAM TARN_CONF_ROW\n"
                              '#include "worker/worker_params.def"\n#undef TARN_PARAM\n};\n'
                              'const struct tarn_conf_table t = TARN_CONF_TABLE("worker", "A worker", rows);\n',
    "worker/worker_stats.def": 'TARN_STAT(COUNTER, read_bytes, "source=local|ufs;ok=yes", "bytes", "Bytes read.")\n',
    "worker/worker_stats.c": "static const struct tarn_stat_row rows[] = {\n#define TARN_STAT TARN_STAT_ROW\n"
                             '#include "worker/worker_stats.def"\n#undef TARN_STAT\n};\n'
                             'const struct tarn_stat_table t = TARN_STAT_TABLE("Reads", rows);\n'
                             "static const struct tarn_stat_callback cb = {.kind = TARN_STAT_GAUGE,\n"
                             '    .name = "inodes", .help = "Inodes "\n    "known."};\n',
    "tests/x_params.def": 'TARN_PARAM(not_documented, BOOL, "", "", "", "", 0, "No.")\n',
}


def test_one_table_of_several_files(tmp_path):
    """In the order in which they are included, once; without the environment where it has none."""
    row = 'TARN_PARAM(%s, BOOL, "false", "", "", "", %s, "Help.")\n'
    tree = make(tmp_path, {
        "tools/b_params.def": row % ("beta", "0"), "tools/a_params.def": row % ("alpha", "0"),
        "tools/none_params.def": row % ("hidden", "HIDDEN"),
        "tools/x.c": "static const struct tarn_conf_param rows[] = {\n#define TARN_PARAM TARN_CONF_ROW\n"
                     '#include "tools/b_params.def"\n#include "tools/a_params.def"\n#undef TARN_PARAM\n};\n'
                     'const struct tarn_conf_table t = {\n    .name = "both",\n    .title = "Both",\n'
                     "    .params = rows, .n = 2, .no_env = true /* why */};\n",
        "lib/base/err.def": TABLES["lib/base/err.def"]})
    assert run(GEN, tree).returncode == 0
    config = (tree / "docs/config.md").read_text()
    assert config.count("\n## ") == 1 and config.count("Section `both` ") == 1
    assert config.index("| `beta` |  | bool |") < config.index("| `alpha` |  | bool |")
    assert "hidden" not in config


def test_docs_are_generated_and_checked(tmp_path):
    tree = make(tmp_path, TABLES)
    assert run(GEN, tree, "--check").returncode == 1
    assert not (tree / "docs").exists()
    assert run(GEN, tree).returncode == 0
    config = (tree / "docs/config.md").read_text()
    assert "## A worker\n\nSection `worker` of the config file.\n" in config
    assert ('| `cache-size` | `TARN_CACHE_SIZE` | size | `10GiB` | from 1MiB | bytes | changeable while running | '
            'Bytes, "all" \\| of them. |\n') in config
    assert "| secret: not on a command line | Key. |" in config
    assert "knob" not in config and "`old`" not in config and "not_documented" not in config
    metrics = (tree / "docs/metrics.md").read_text()
    assert ("## Reads\n" in metrics and
            "| `tarn_read_bytes_total` | counter | `source`: local, ufs; `ok`: yes | bytes | Bytes read. |\n" in metrics)
    assert "| `tarn_inodes` | gauge |  |  | Inodes known. |\n" in metrics
    errors = (tree / "docs/errors.md").read_text()
    assert errors.endswith("| FULL | 1001 | ENOSPC | backoff | 1 | full |\n"
                           "| LATE | 1003 | ETIMEDOUT | never | 4 | too late, sorry |\n")
    assert run(GEN, tree, "--check").returncode == 0
    (tree / "docs/errors.md").write_text(errors.replace("full", "empty"))
    r = run(GEN, tree, "--check")
    assert r.returncode == 1
    assert "-| FULL | 1001 | ENOSPC | backoff | 1 | empty |\n" in r.stdout


def test_same_markdown_as_the_library(tmp_path):
    """tarn_conf_markdown() and gen_docs.py write the same table."""
    sources = [str(p) for p in [*ROOT.glob("lib/base/*.c"), *ROOT.glob("lib/conf/*.c")]]
    program = tmp_path / "print.c"
    program.write_text('#include <stdio.h>\n#include "lib/base/str.h"\n'
                       '#include "tests/unit/lib/conf/conf_fixture.h"\n'
                       "int main(void)\n{\n    struct tarn_str out = {0};\n"
                       "    tarn_conf_markdown(&test_params_table, &out);\n    fputs(tarn_str_z(&out), stdout);\n"
                       "    tarn_str_fini(&out);\n    return 0;\n}\n")
    subprocess.run(["cc", "-std=gnu17", "-D_GNU_SOURCE", '-DTARN_VERSION="0"', "-I", str(ROOT), *sources,
                    str(ROOT / "tests/unit/lib/conf/conf_fixture.c"), str(program), "-o", str(tmp_path / "print"),
                    "-lcyaml", "-lcrypto", "-lxxhash", "-lcmocka", "-lpthread"], check=True, timeout=120)
    printed = subprocess.run([str(tmp_path / "print")], check=True, capture_output=True, text=True).stdout
    tree = make(tmp_path / "tree", {
        "lib/x/test_params.def": (ROOT / "tests/unit/lib/conf/test_params.def").read_text(),
        "lib/x/x.c": "static const struct tarn_conf_param rows[] = {\n#define TARN_PARAM TARN_CONF_ROW\n"
                     '#include "lib/x/test_params.def"\n};\n'
                     'const struct tarn_conf_table t = {"test", "Test parameters", rows, 1, 2, check};\n'})
    assert run(GEN, tree).returncode == 0
    config = (tree / "docs/config.md").read_text()
    assert config[config.index("## "):] == printed
