# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by tools/setup on Debian 12: libfuse >= 3.17 from the source package of a newer release.
#
# `apt-get source` with a private configuration fetches and verifies the package; nothing of the
# machine's apt state changes. Meson builds the static library alone and only its development files
# are installed, below build/deps/fuse: no fusermount3 (Debian's own works), no udev rules, no init
# script. The build is told /usr as its prefix, because the library keeps the path of fusermount3.
# Uses: DEPS, LOG, ROOT, say, complain, fail_with_log.

FUSE_BUILD_PACKAGES=(meson dpkg-dev xz-utils)
FUSE_MIN=3.17
FUSE_PKGCONFIG=$DEPS/fuse/usr/lib/pkgconfig
# The release to take the source from: first the one whose package Debian 13 itself uses.
FUSE_SUITES=(trixie sid)

fuse_version() {
    if [ -e "$DEPS/pkgconfig-path" ]; then
        PKG_CONFIG_PATH=$FUSE_PKGCONFIG pkg-config --modversion fuse3
    else
        pkg-config --modversion fuse3
    fi
}

# Is the library there, and does cmake find it? (A tree that was moved gets its path rewritten.)
fuse_ready() {
    [ -e "$DEPS/fuse/usr/lib/libfuse3.a" ] || return 1
    PKG_CONFIG_PATH=$FUSE_PKGCONFIG pkg-config --atleast-version=$FUSE_MIN fuse3 || return 1
    if [ "$(cat "$DEPS/pkgconfig-path" 2>/dev/null)" != "$FUSE_PKGCONFIG" ]; then
        printf '%s\n' "$FUSE_PKGCONFIG" >"$DEPS/pkgconfig-path"
    fi
}

# fuse_apt TOOL ARGS...: apt with the private source list, lists and cache.
fuse_apt() {
    local tool=$1
    shift
    "$tool" -q -o Dir::Etc::sourcelist="$DEPS/apt/fuse.sources" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$DEPS/apt/lists" -o Dir::Cache="$DEPS/apt/cache" \
        -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none -o Acquire::Retries=3 \
        "$@" </dev/null
}

# fuse_fetch DIR: leaves the unpacked source in DIR/src, from the first repository that is Debian's
# and has a version that is new enough.
fuse_fetch() {
    local dir=$1 count n suite version origin
    count=$(/usr/bin/python3 "$ROOT/tools/lib/debsrc.py" --count bookworm)
    for ((n = 0; n < count; n++)); do
        for suite in "${FUSE_SUITES[@]}"; do
            rm -rf "$DEPS/apt"
            mkdir -p "$DEPS/apt/lists/partial" "$DEPS/apt/cache/archives/partial"
            /usr/bin/python3 "$ROOT/tools/lib/debsrc.py" --nth "$n" --suite "$suite" bookworm \
                >"$DEPS/apt/fuse.sources"
            cat "$DEPS/apt/fuse.sources" >>"$LOG"
            fuse_apt apt-get update >>"$LOG" 2>&1 || continue
            # shellcheck disable=SC2016 # the $() are apt's
            origin=$(fuse_apt apt-get indextargets --format '$(ORIGIN)' 'Created-By: Sources' | head -n 1)
            [ "$origin" = Debian ] || continue
            version=$(fuse_apt apt-cache showsrc --only-source fuse3 2>>"$LOG" |
                sed -n 's/^Version: //p' | sort -V | tail -n 1)
            dpkg --compare-versions "${version:-0}" ge $FUSE_MIN || continue
            (cd "$dir" && fuse_apt apt-get source --download-only "fuse3=$version") >>"$LOG" 2>&1 ||
                continue
            (cd "$dir" && dpkg-source -x fuse3_*.dsc src) >>"$LOG" 2>&1 || continue
            return 0
        done
    done
    return 1
}

# fuse_option NAME=VALUE: the meson argument, or nothing where this version lacks the option.
fuse_option() {
    if grep -qs "option('${1%%=*}'" "$2"/meson_options.txt "$2"/meson.options; then
        printf -- '-D%s\n' "$1"
    fi
}

fuse_build() {
    local work=$DEPS/fuse-build src options
    say "building libfuse >= $FUSE_MIN from Debian's newer source package (once)"
    rm -rf "$work" "$DEPS/fuse" "$DEPS/pkgconfig-path"
    mkdir -p "$work"
    fuse_fetch "$work" ||
        fail_with_log "no source package of fuse3 >= $FUSE_MIN (${FUSE_SUITES[*]}) from this machine's Debian mirror"
    src=$work/src
    mapfile -t options < <(
        fuse_option examples=false "$src"
        fuse_option tests=false "$src"
        fuse_option utils=false "$src"
        fuse_option useroot=false "$src"
        fuse_option initscriptdir= "$src"
        fuse_option enable-io-uring=false "$src"
    )
    {
        /usr/bin/meson setup "$work/b" "$src" --prefix=/usr --libdir=lib --sysconfdir=/etc \
            --buildtype=release --default-library=static -Db_pie=true -Db_staticpic=true \
            -Dc_args="-g -ffile-prefix-map=$work=fuse3" -Dpkgconfig.relocatable=true \
            "${options[@]}" &&
            ninja -C "$work/b" &&
            DESTDIR=$DEPS/fuse.new /usr/bin/meson install -C "$work/b" --no-rebuild --tags devel
    } >>"$LOG" 2>&1 </dev/null || fail_with_log "building libfuse failed"
    mv "$DEPS/fuse.new" "$DEPS/fuse"
    rm -rf "$work" "$DEPS/apt"
    fuse_ready || fail_with_log "libfuse was built, but pkg-config does not find it"
}
