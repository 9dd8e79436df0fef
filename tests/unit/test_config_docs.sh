#!/usr/bin/env bash
# The committed manuals say what the programs do: docs/config.md and imgcls-train.ini(5) are the
# table of keys, imgcls(1) is what --help of the subcommands says, imgcls-train(1) has every option of
# --help and every variable that operations.md knows.
# usage: test_config_docs.sh SOURCE_DIR BUILD_DIR
set -u
source_dir=$1 build_dir=$2
failed=0
fail() { echo "FAILED: $*" >&2; failed=1; }

compare() { # FILE COMMAND...
  diff -u "$source_dir/docs/$1" <("${@:2}") >&2 ||
    fail "docs/$1 is stale: cmake --build $build_dir --target config_docs"
}
compare config.md "$build_dir/write_config_docs" markdown
compare imgcls-train.ini.5 "$build_dir/write_config_docs" man
compare imgcls.1 python3 "$source_dir/tests/tools/write_tool_manual.py" "$build_dir/imgcls"
(( $(grep -c '^\.TP' "$source_dir/docs/imgcls.1") > 30 )) || fail "imgcls.1 has hardly an option"

help=$("$build_dir/imgcls-train" --help)
options=$(grep -oE '^ +(-., )?--[a-z-]+' <<<"$help" | grep -oE '\-\-[a-z-]+')
(( $(wc -w <<<"$options") == 14 )) || fail "--help lists too few options: $options"
for option in $options; do
  grep -qF -- "${option//-/\\-}" "$source_dir/docs/imgcls-train.1" ||
    fail "imgcls-train.1 lacks $option"
done
(( $(wc -l <<<"$help") <= 60 )) || fail "--help is longer than 60 lines"

for variable in $(sed -n '/^## Environment/,$p' "$source_dir/docs/operations.md" |
  grep -oE '^\|[^|]*' | grep -oE '[A-Z]+_[A-Z_]+'); do
  tr -d '\\ ' <"$source_dir/docs/imgcls-train.1" | grep -qF "${variable}" ||
    fail "imgcls-train.1 lacks $variable"
done

if command -v groff >/dev/null; then
  for page in imgcls.1 imgcls-train.1 imgcls-train.ini.5; do
    warnings=$(groff -man -Tutf8 -ww -rLL=120n "$source_dir/docs/$page" 2>&1 >/dev/null)
    [[ -z $warnings ]] || fail "$page: $warnings"
  done
fi
exit $failed
