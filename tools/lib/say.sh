# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by the scripts in tools/: how they talk. Results and progress of a script go to stdout,
# complaints to stderr, noise to LOG.

say() {
    printf '%s: %s\n' "${0##*/}" "$*"
}

complain() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# fail_with_log MESSAGE: the cause, the end of the noise that led to it, exit 1.
fail_with_log() {
    complain "$1"
    complain "the last lines of $LOG:"
    tail -n 25 "$LOG" | sed 's/^/    /' >&2
    exit 1
}
