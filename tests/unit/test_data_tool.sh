#!/bin/sh
# `imgcls data` from the command line: import-idx, scan, pack, and their mistakes.
# usage: test_data_tool.sh IMGCLS
set -u
imgcls=$1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failed=0

# says CODE WORDS COMMAND...: the exit code, and words in what it prints.
says() {
  code=$1 words=$2
  shift 2
  "$@" >out 2>&1
  got=$?
  if [ $got -ne "$code" ] || ! grep -q -- "$words" out; then
    echo "FAILED: $*: exit code $got, not $code, or no '$words' in:"
    cat out
    failed=1
  fi
}

# Six images of 2 x 3, labels 0 1 2 0 1 0.
{
  printf '\000\000\010\003\000\000\000\006\000\000\000\002\000\000\000\003'
  printf 'abcdefghijklmnopqrstuvwxyz0123456789'
} >images
printf '\000\000\010\001\000\000\000\006\000\001\002\000\001\000' >labels
gzip -k images labels

says 0 '6 images of 2 x 3 in 3 classes, written' "$imgcls" data import-idx images labels a
says 0 'there already' "$imgcls" data import-idx images.gz labels.gz a/
says 0 '3 classes, written' "$imgcls" data import-idx images.gz labels.gz b --class-names 'shoe,T-shirt,bag'
says 0 'T-shirt  *2' "$imgcls" data scan b
says 0 'height 2..2, median 2; width 3..3, median 3' "$imgcls" data scan b
says 73 'something else' "$imgcls" data import-idx images labels a --class-names=x,y,z
says 64 'cannot name a folder' "$imgcls" data import-idx images labels c --class-names=a/b,c,d
says 64 '2 names, the labels go up to 2' "$imgcls" data import-idx images labels c --class-names=a,b
says 64 'twice' "$imgcls" data import-idx images labels c --class-names=a,b,a
says 65 'not an IDX file of images' "$imgcls" data import-idx labels labels c
says 66 'nowhere' "$imgcls" data import-idx nowhere labels c
mkfifo pipe
says 65 'pipe: not a regular file' timeout 20 "$imgcls" data import-idx pipe labels c
says 65 'pipe: not a regular file' timeout 20 "$imgcls" data import-idx images pipe c
head -c 30 images >short
says 65 'cut off' "$imgcls" data import-idx short labels c
head -c 40 images.gz >short.gz
says 65 'cut off' "$imgcls" data import-idx short.gz labels c
says 65 'longer than' sh -c 'cat images labels >long; "$0" data import-idx long labels c' "$imgcls"
[ -e c ] && { echo "FAILED: a failed import left its folder"; failed=1; }
says 0 'written' "$imgcls" data import-idx images labels c # over what the failed ones left

says 0 '6 images in 3 classes, packed' sh -c '"$0" data pack a p && "$0" data scan p' "$imgcls"
says 0 '"images": 6' "$imgcls" data scan --json p
says 0 '6 images' "$imgcls" data pack --encoded a e
says 0 '6 good, 0 bad' "$imgcls" data scan e
says 0 'packed' "$imgcls" data scan --quick --class-names=0,1,2 e
says 78 'not the 2 wanted ones' "$imgcls" data scan --class-names=0,1 e
says 0 'width 8..8' sh -c '"$0" data pack --size=8 --threads=3 a s && "$0" data scan s' "$imgcls"
says 64 'one of the two' "$imgcls" data pack --size 8 --encoded a x
says 64 'must be a whole number' "$imgcls" data pack --size 0 a x
says 64 'data pack: write `imgcls data pack DIR FILE`, not 1 operand' "$imgcls" data pack a
says 64 'data pack: wrong option --json' "$imgcls" data pack --json a x
says 0 'max-bad' "$imgcls" data pack --help
says 0 'import-idx' "$imgcls" data --help
says 64 'say what to do' "$imgcls" data pakc a x

echo nonsense >a/1/broken.png
says 0 '"file": "1/broken.png"' "$imgcls" data scan --json a
says 0 '6 good, 1 bad' "$imgcls" data scan a
says 0 'left out: a/1/broken.png' "$imgcls" data pack a p
says 65 'more than the 0 allowed' "$imgcls" data pack --max-bad=0 a p
says 0 '6 images' "$imgcls" data scan p # the earlier one stands
mkdir -p z/0 z/1 && echo nonsense | tee z/0/a.png >z/1/b.png
says 65 "z: no image can be read" "$imgcls" data scan z
says 0 "2 images in 2 classes" "$imgcls" data scan --quick z
says 0 "exit status is 65 only" "$imgcls" data scan --help

exit $failed
