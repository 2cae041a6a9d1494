#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Print `passed failed skipped` of a JUnit file, as ctest and pytest write them."""
import sys
import xml.etree.ElementTree as ET


def main():
    passed = failed = skipped = 0
    for case in ET.parse(sys.argv[1]).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            skipped += 1
        else:
            passed += 1
    print(passed, failed, skipped)


main()
