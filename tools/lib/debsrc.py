#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Turn the machine's apt sources into a deb-src entry of another Debian release.

    debsrc.py --count CODENAME                how many mirrors of CODENAME's main the machine uses
    debsrc.py --nth N --suite SUITE CODENAME  the deb822 entry for SUITE on the N-th of them

Reads one-line files (sources.list, *.list) and deb822 files (*.sources). Only repositories that
offer suite CODENAME, component main, are mirrors; whether they are Debian's is for the caller to
check in the downloaded Release file. The signing key goes along.
"""
import argparse
import glob
import re
import shlex

ALIASES = {"bookworm": {"bookworm", "oldstable"}, "trixie": {"trixie", "stable"}}
KEPT = ("signed-by", "trusted", "check-valid-until")


def read_one_line(text):
    """Yield (types, uris, suites, components, options) of a file in the one-line format."""
    for line in text.splitlines():
        match = re.match(r"\s*(deb|deb-src)\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if not match:
            continue
        kind, options, uri, suite, components = match.groups()
        pairs = dict(o.split("=", 1) for o in shlex.split(options or "") if "=" in o)
        kept = {k.lower(): v for k, v in pairs.items() if k.lower() in KEPT}
        yield {kind}, [uri], [suite], components.split(), kept


def read_deb822(text):
    """Yield the same of a file in the deb822 format; a field may go on in indented lines."""
    text = re.sub(r"^#.*\n?", "", text, flags=re.M)
    for stanza in re.split(r"\n\s*\n", text):
        fields, name = {}, None
        for line in stanza.splitlines():
            if line[:1] in " \t" and name:
                fields[name] += "\n" + line
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        if not all(k in fields for k in ("types", "uris", "suites")):
            continue
        kept = {k: fields[k] for k in KEPT if k in fields}
        yield (set(fields["types"].split()), fields["uris"].split(), fields["suites"].split(),
               fields.get("components", "").split(), kept)


def entries():
    for path in ["/etc/apt/sources.list"] + sorted(glob.glob("/etc/apt/sources.list.d/*")):
        if path.endswith(".sources"):
            reader = read_deb822
        elif path.endswith(".list"):
            reader = read_one_line
        else:
            continue
        try:
            with open(path, encoding="utf-8", errors="replace") as f:
                yield from reader(f.read())
        except OSError:
            continue


def mirrors(codename):
    """The (uri, options) that serve CODENAME's main, likely Debian mirrors first, each once."""
    wanted = ALIASES.get(codename, {codename})
    found = {}
    for types, uris, suites, components, options in entries():
        if "deb" not in types or "main" not in components or not wanted & set(suites):
            continue
        for uri in uris:
            if not uri.startswith("cdrom:"):
                found.setdefault(uri.rstrip("/"), options)
    return sorted(found.items(), key=lambda item: not re.search(r"\bdebian$", item[0]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--nth", type=int, default=0)
    parser.add_argument("--suite")
    parser.add_argument("codename")
    args = parser.parse_args()
    found = mirrors(args.codename)
    if args.count:
        print(len(found))
        return
    uri, options = found[args.nth]
    print(f"Types: deb-src\nURIs: {uri}\nSuites: {args.suite}\nComponents: main")
    for key, value in options.items():
        print(f"{key.title()}: {value}")


main()
