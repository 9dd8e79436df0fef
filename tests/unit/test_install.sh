#!/usr/bin/env bash
# `cmake --install` leaves programs that run from where they are, manuals and the configurations.
# usage: test_install.sh BUILD_DIR
set -eu
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
cmake --install "$1" --prefix "$prefix" >/dev/null
for program in imgcls imgcls-train; do
  [[ $("$prefix/bin/$program" --version) == "$program "* ]]
  test -s "$prefix/share/man/man1/$program.1"
done
test -s "$prefix/share/man/man5/imgcls-train.ini.5"
for config in "$prefix"/share/doc/imgcls/configs/*.ini; do
  "$prefix/bin/imgcls-train" --print-config "$config" >/dev/null
done
