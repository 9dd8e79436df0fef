#!/usr/bin/env bash
# Configuring says what it found. Without cmocka it leaves out the tests and says so, but fails where
# they are asked for by name, as tests/run.sh does, which refuses options that it does not have.
# usage: test_configure.sh SOURCE_DIR BUILD_DIR CMAKE PKG_CONFIG
set -u
source_dir=$1 build_dir=$2/configure cmake=$3 pkg_config=$4
failed=0
fail() { echo "FAILED: $*" >&2; failed=1; }

rm -rf "$build_dir"
mkdir -p "$build_dir"
# A pkg-config that knows everything but cmocka.
cat >"$build_dir/pkg-config" <<SCRIPT
#!/bin/sh
case "\$*" in *cmocka*) exit 1 ;; esac
exec $pkg_config "\$@"
SCRIPT
chmod +x "$build_dir/pkg-config"

configure() { # OPTION...
  "$cmake" -S "$source_dir" -B "$build_dir/tree" -G Ninja "$@" >"$build_dir/log" 2>&1
}
expect() { # PATTERN
  grep -qE -- "$1" "$build_dir/log" || { fail "no line like '$1'"; tail -30 "$build_dir/log" >&2; }
}

configure -DPKG_CONFIG_EXECUTABLE="$build_dir/pkg-config" -DCMAKE_INSTALL_PREFIX=/opt/somewhere ||
  { fail "a configuration without cmocka"; cat "$build_dir/log" >&2; }
version=$(sed -nE 's/^project\(imgcls VERSION ([0-9.]+).*/\1/p' "$source_dir/CMakeLists.txt")
expect "^-- imgcls $version$"
expect '^--   build type +Release$'
expect '^--   compiler +[A-Za-z]+ [0-9.]+ \(/.*\)$'
expect '^--   backend cpu +on, own kernels for plain, baseline'
expect '^--   backend cuda +off \(IMGCLS_CUDA=ON'
for library in oneDNN MPI HDF5 libjpeg spng giflib gdk-pixbuf jansson ini_config xxhash hwloc \
  protobuf-c zlib; do
  expect "^--   $library +[0-9]+(\.[0-9]+)+"
done
expect '^--   tests +off: cmocka not found; launch/install-debian.sh --tests'
expect '^--   sanitizers +none$'
expect '^--   install prefix +/opt/somewhere$'
[[ ! -e $build_dir/tree/CTestTestfile.cmake ]] || fail "there are tests without cmocka"

if configure -DIMGCLS_TESTS=ON; then fail "tests that cannot be built are left out in silence"; fi
expect 'IMGCLS_TESTS=ON: cmocka not found; launch/install-debian.sh --tests'
grep -q -- '-DIMGCLS_TESTS=ON' "$source_dir/tests/run.sh" || fail "run.sh may leave out its tests"

"$source_dir/tests/run.sh" --quik >"$build_dir/log" 2>&1
[[ $? -eq 64 ]] || fail "a typo in run.sh's option starts the tests"
expect 'usage: tests/run.sh \[--quick\]'

rm -rf "$build_dir"
exit $failed
