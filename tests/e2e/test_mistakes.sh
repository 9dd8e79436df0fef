#!/usr/bin/env bash
# Mistakes that users make: each ends with its documented exit code and says, in so many words, what
# is wrong and what to do. One row each:
#
#   [ranks=N] [into=FILE] [file_limit=KIB] mistake "NAME" EXIT_CODE "TEXT" ARGUMENT... <<<'INI TEXT'
#
# TEXT must stand in standard error, every line of which must begin with the program's name (under
# mpirun, which adds its own lines, TEXT must stand there once). %INI in
# an argument is the file with the INI text (none is written when that is empty). The first argument
# names the program when it is "imgcls"; otherwise it is imgcls-train. Standard output goes into FILE;
# no file may grow beyond KIB, and no temporary file may be left.
# usage: test_mistakes.sh BUILD_DIR
set -u
build=$(cd "$1" && pwd)
work=$(mktemp -d)
trap '[[ -e small/mounted ]] && umount small; chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work" || exit 1
unset "${!IMGCLS_@}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
rows=0 failed=0

mistake() {
  local name=$1 code=$2 text=$3 program=imgcls-train ini rc
  shift 3
  [[ $1 == imgcls ]] && { program=imgcls; shift; }
  IFS= read -r -d '' ini || true
  rm -f run.ini
  [[ -n ${ini//[[:space:]]/} ]] && printf '%s' "$ini" >run.ini
  rows=$((rows + 1))
  local launch=()
  [[ -n ${ranks:-} ]] && launch=(mpirun --oversubscribe --bind-to none -np "$ranks")
  (
    [[ -n ${file_limit:-} ]] && ulimit -f "$file_limit"
    exec timeout 60 "${launch[@]}" "$build/$program" "${@//%INI/run.ini}"
  ) >"${into:-out}" 2>err </dev/null
  rc=$?
  if [[ $rc -ne $code ]]; then
    echo "FAILED: $name: exit code $rc, not $code"
  elif ! grep -qF -- "$text" err; then
    echo "FAILED: $name: standard error lacks '$text'"
  elif [[ -n ${ranks:-} && $(grep -cF -- "$text" err) -ne 1 ]]; then
    echo "FAILED: $name: said more than once"
  elif [[ -z ${ranks:-} ]] && grep -qv "^$program: " err; then
    echo "FAILED: $name: lines without '$program: '"
  elif [[ -n $(find . -name '.*.tmp.*') ]]; then
    echo "FAILED: $name: left $(find . -name '.*.tmp.*')"
  else
    return
  fi
  sed 's/^/    /' err
  failed=$((failed + 1))
}

# bmp FILE SIZE BYTE: a square image of one grey.
bmp() {
  local size=$2 grey bytes total
  bytes=$((size * size * 3)) total=$((54 + size * size * 3)) # rows of SIZE = 4 n need no padding
  printf -v grey '\\x%02x' "$3"
  le32() { printf "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) 0)"; }
  {
    printf 'BM' && le32 $total && printf '\0\0\0\0\x36\0\0\0\x28\0\0\0'
    le32 "$size" && le32 "$size" && printf '\x01\0\x18\0\0\0\0\0' && le32 $bytes
    printf '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
    printf "$grey%.0s" $(seq $bytes)
  } >"$1"
}
mkdir -p images/{cats,dogs} one/cats flat empty
for i in 1 2 3 4 5 6 7 8 9 10; do
  bmp images/cats/$i.bmp 8 $((7 * i))
  bmp images/dogs/$i.bmp 8 $((255 - 7 * i))
done
cp images/cats/*.bmp one/cats
cp -r images moved && bmp moved/dogs/11.bmp 8 99
cp -r images broken && for i in 1 2 3 4; do echo broken >broken/cats/$i.bmp; done
cp -r images all_broken && for file in all_broken/*/*; do echo broken >"$file"; done
cp images/cats/1.bmp flat
echo hello >notes.txt
printf 'garbage.' >torn.safetensors

# A configuration that is right but for what the row adds.
GOOD=$'[data]\ndir = images\n'

# --- command line ---------------------------------------------------------------------------------
mistake "nothing at all" 64 "no configuration: name an INI file, such as configs/quickstart.ini" \
  -q </dev/null
mistake "typo in an option" 64 "unknown option '--ouput'; did you mean '--output'?" \
  --ouput x %INI <<<"$GOOD"
mistake "option without its value" 64 "option '--output' needs a value: --output=DIR" \
  %INI --output <<<"$GOOD"
mistake "two configurations" 64 "two configurations, run.ini and b.ini: give one INI file" \
  %INI b.ini <<<"$GOOD"
mistake "a subcommand in place of an option" 64 "it is a program of its own: imgcls eval" \
  --eval %INI <<<"$GOOD"
mistake "--check of a wrong configuration" 78 "unknown key [train] bacth; did you mean batch?" \
  --check -s train.bacth=4 %INI <<<"$GOOD"
mistake "--check of a GPU that cannot be" 78 "device = cuda: this program was built without it" \
  --check -s run.device=cuda </dev/null
mistake "two modes" 64 "give one of --check, --check-data" --check --dry-run %INI <<<"$GOOD"
mistake "typo in a subcommand's option" 64 "predict: unknown option --jsn; did you mean --json?" \
  imgcls predict --jsn x.h5 a.png </dev/null
mistake "a subcommand's option without its value" 64 \
  "predict: wrong option --top: \`imgcls predict --help\` lists them" imgcls predict --top </dev/null
mistake "typo in a subcommand" 64 "unknown subcommand 'modles'; did you mean 'models'?" \
  imgcls modles </dev/null
mistake "no subcommand" 64 "which subcommand? \`imgcls help\` lists them" imgcls </dev/null

# --- the configuration file -----------------------------------------------------------------------
mistake "wrong path of the INI file" 66 "cannot open the configuration conf.ini: No such file" \
  conf.ini </dev/null
mkdir -p folder
mistake "a folder in place of the INI file" 66 "folder is a folder; name an INI file" \
  folder </dev/null
printf '\x89PNG\r\n\x1a\n\0\0\0\rIHDR' >cat.png
mistake "an image in place of the INI file" 78 "cat.png:3: a NUL byte: save the file as plain UTF-8" \
  cat.png </dev/null
mistake "typo in a key" 78 "run.ini:4: unknown key [train] epoch; did you mean epochs?" \
  %INI <<<"$GOOD"$'[train]\nepoch = 3'
mistake "typo in a section" 78 "run.ini:3: unknown section [optimiser]; did you mean [optimizer]?" \
  %INI <<<"$GOOD"$'[optimiser]\nmomentum = 0.9'
mistake "key in the wrong section" 78 \
  "run.ini:4: unknown key [train] learning_rate; it belongs to [optimizer]" \
  %INI <<<"$GOOD"$'[train]\nlearning_rate = 0.1'
mistake "no section" 78 "run.ini:1: before the first section: write [section] above it" \
  %INI <<<$'dir = images\n'"$GOOD"
# Windows' editors put a byte order mark before the first section, which is none of these mistakes.
mistake "a byte order mark, and a typo" 78 "run.ini:2: unknown key [data] dirr; did you mean dir?" \
  %INI <<<$'\xEF\xBB\xBF[data]\ndirr = images'
mistake "no equals sign" 78 "run.ini:4: 'batch 32': no '=': write key = value" \
  %INI <<<"$GOOD"$'[train]\nbatch 32'
mistake "a key twice" 78 "run.ini:5: [train] batch stands twice: keep one" \
  %INI <<<"$GOOD"$'[train]\nbatch = 8\nbatch = 16'
mistake "no dataset" 78 "[data] dir is missing. A folder with one folder of images per class" \
  %INI <<<$'[train]\nepochs = 1'

# --- values ---------------------------------------------------------------------------------------
mistake "batch of zero" 78 "run.ini:4: [train] batch = 0: must be 1..1048576" \
  %INI <<<"$GOOD"$'[train]\nbatch = 0'
mistake "a word for a number" 78 "run.ini:4: [train] epochs = ten: must be a whole number" \
  %INI <<<"$GOOD"$'[train]\nepochs = ten'
mistake "per cent for a fraction" 78 \
  "run.ini:3: [data] validation_split = 10%: must be a number, 0..0.9" \
  %INI <<<"$GOOD"$'validation_split = 10%'
mistake "decimal comma" 78 "run.ini:4: [optimizer] learning_rate = 0,005: must be a number" \
  %INI <<<"$GOOD"$'[optimizer]\nlearning_rate = 0,005'
mistake "a schedule that does not exist" 78 \
  "must be one of constant, step, cosine, polynomial, exponential; did you mean cosine?" \
  %INI <<<"$GOOD"$'[schedule]\nname = cosin'
mistake "a step schedule without steps" 78 "step needs [schedule] step_epochs, such as 30,60,80" \
  %INI <<<"$GOOD"$'[schedule]\nname = step'
mistake "workers that do not divide the batch" 78 \
  "16 is no multiple of [train] virtual_workers = 5; the next that fits is 20" \
  %INI <<<"$GOOD"$'[train]\nvirtual_workers = 5'
mistake "reproducible on an open number of workers" 78 \
  "[train] reproducible: yes needs [train] virtual_workers" \
  %INI <<<"$GOOD"$'[train]\nreproducible = yes'
mistake "cached features of a backbone that learns" 78 \
  "[data] cache_features: yes needs [model] fine_tune = no" \
  %INI <<<"$GOOD"$'cache_features = yes'
mistake "one class name" 78 "[data] class_names: at least two classes are needed" \
  %INI <<<"$GOOD"$'class_names = cats'

# --- -s and the environment -----------------------------------------------------------------------
mistake "-s without a section" 78 \
  "command line: 'batch=3': write section.key=value; it belongs to [train]" \
  -s batch=3 %INI <<<"$GOOD"
export IMGCLS_TRAIN_BACH=32
mistake "typo in a variable" 78 \
  "IMGCLS_TRAIN_BACH: unknown variable; did you mean IMGCLS_TRAIN_BATCH?" %INI <<<"$GOOD"
unset IMGCLS_TRAIN_BACH
if (( $(id -u) != 0 )); then # root reads everything
  printf '%s' "$GOOD" >secret.ini
  chmod 000 secret.ini
  mistake "a file that may not be read" 77 "cannot open the configuration secret.ini: Permission" \
    secret.ini </dev/null
fi

# --- images ---------------------------------------------------------------------------------------
mistake "typo in the dataset's path" 66 "[data] dir: no images in 'imagse': No such file or directory" \
  -s data.dir=imagse %INI <<<"$GOOD"
mistake "a folder without anything" 66 "empty has no folders: one folder per class is needed" \
  -s data.dir=empty %INI <<<"$GOOD"
mistake "images without class folders" 66 \
  "no folder per class: put the images of each class into a folder of that name" \
  -s data.dir=flat %INI <<<"$GOOD"
mistake "one class only" 78 "one has only one class, 'cats': a classifier needs at least 2" \
  -s data.dir=one %INI <<<"$GOOD"
mistake "a file that is no dataset" 65 "notes.txt: not a file of \`imgcls data pack\`" \
  -s data.dir=notes.txt %INI <<<"$GOOD"
mistake "a class that has no folder" 78 "images has no class folder 'birds'" \
  -s data.class_names=cats,birds %INI <<<"$GOOD"
mistake "a validation split without images" 78 \
  "a validation fraction of 0.01 leaves none of 20 images for validation; raise it" \
  -s data.validation_split=0.01 %INI <<<"$GOOD"

# --- model and weights ----------------------------------------------------------------------------
mistake "typo in a backbone" 78 \
  'unknown backbone "mobilenet_v2_100": did you mean "mobilenet_v2_100_224"?' \
  -s model.backbone=mobilenet_v2_100 %INI <<<"$GOOD"
mistake "images too small for the backbone" 78 "image of 8 x 8 pixels: the smallest is 32 x 32" \
  -s model.image_size=8 %INI <<<"$GOOD"
mistake "wrong path of the weights" 66 "[model] weights: nope.h5: cannot be opened: No such file" \
  -s model.weights=nope.h5 %INI <<<"$GOOD"
mistake "weights that are no HDF5 file" 65 \
  "notes.txt: is no HDF5 file (6 bytes); use an .h5 of imgcls or Keras" \
  -s model.weights=notes.txt %INI <<<"$GOOD"
mistake "a folder in place of weights" 65 "images: is a folder; name a file in it" \
  -s model.weights=images %INI <<<"$GOOD"
mistake "weights that are no safetensors file" 65 \
  "torn.safetensors: is no safetensors file (8 bytes): its download was cut off, or it was not written" \
  -s model.weights=torn.safetensors %INI <<<"$GOOD"
mistake "a GPU without CUDA" 78 "device = cuda: this program was built without it" \
  -s run.device=cuda %INI <<<"$GOOD"
mistake "fp16 on a CPU" 78 "[train] precision = fp16: a device of this job (cpu) does not multiply it" \
  -s run.device=cpu -s train.precision=fp16 %INI <<<"$GOOD"

# --- files of a run -------------------------------------------------------------------------------
SMALL="$GOOD"$'[model]\nimage_size = 32\n[train]\nbatch = 4\nepochs = 1\n[run]\noutput = runs/good\n'
printf '%s' "$SMALL" >small.ini
"$build/imgcls-train" -q small.ini || { echo "FAILED: the run that is no mistake"; failed=1; }
mistake "weights of another backbone" 65 "the file holds another network or another width of it" \
  -o runs/other -s model.backbone=ResNet50 -s model.weights=runs/good/last.h5 %INI <<<"$SMALL"
cp runs/good/last.h5 own.safetensors
mistake "the same, in an HDF5 file of another name" 65 \
  "the file holds another network or another width of it" \
  -o runs/other -s model.backbone=ResNet50 -s model.weights=own.safetensors %INI <<<"$SMALL"
mistake "going on with other images" 65 "was trained on other images than [data] dir = moved" \
  -s data.dir=moved %INI <<<"$SMALL"
mistake "going on with another backbone" 65 \
  "cannot go on with this [model]; begin anew with --resume=none or in another run folder (-o)" \
  -s model.backbone=ResNet50 %INI <<<"$SMALL"
mistake "wrong path of the checkpoint" 66 \
  "[checkpoint] resume: nope.h5: cannot be opened: No such file" \
  -r nope.h5 %INI <<<"$SMALL"
mistake "a checkpoint that is none" 65 "notes.txt: is no HDF5 file" \
  -r notes.txt %INI <<<"$SMALL"
# Groups whose trees are their own branches: HDF5 follows them until the stack is full.
python3 - <<'PYTHON'
import re, struct
model = bytearray(open("runs/good/last.h5", "rb").read())
for tree in re.finditer(b"TREE\0\0", bytes(model)):
    at = tree.start()
    model[at + 5] = 1
    model[at + 32:at + 40] = struct.pack("<Q", at)
open("evil.h5", "wb").write(model)
PYTHON
for many in "" 2; do
  ranks=$many mistake "a checkpoint that was made to crash its reader" 65 \
    "no run to go on with; name another file, or --resume auto: evil.h5: crashed its reader" \
    -r evil.h5 %INI <<<"$SMALL"
done
mistake "a file in place of the output folder" 73 "[run] output = notes.txt is a file; name a folder" \
  -o notes.txt %INI <<<"$SMALL"
mistake "too many broken images" 65 "max_bad_fraction" \
  -o runs/broken -s data.dir=broken -s data.validation_split=0.4 %INI <<<"$SMALL"
# Of four broken ones no rank meets more than are allowed, and together they do.
ranks=2 mistake "too many broken test images of two ranks" 65 \
  "4 bad images among 20 in broken, more than the 2 allowed; remove them, or raise max_bad_fraction" \
  -o runs/two -s data.test_dir=broken -s data.max_bad_fraction=0.1 %INI <<<"$SMALL"
ranks=2 mistake "too many broken training images of two ranks" 65 \
  "4 bad images among 20 in broken, more than the 3 allowed; remove them, or raise max_bad_fraction" \
  -o runs/three -s data.dir=broken -s data.validation_split=0 -s data.max_bad_fraction=0.15 \
  %INI <<<"$SMALL"
ranks=2 mistake "no test image that can be read" 65 \
  "all_broken: none of the 20 images to evaluate could be read" \
  -o runs/four -s data.test_dir=all_broken -s data.max_bad_fraction=1 %INI <<<"$SMALL"
mistake "no image that can be read" 65 "all_broken: none of the 20 images to evaluate could be read" \
  imgcls eval runs/good/last.h5 all_broken </dev/null
mistake "one image of several is missing" 65 "1 of 2 images could not be read" \
  imgcls predict runs/good/last.h5 nope.png images/cats/1.bmp </dev/null
head -c 5000 runs/good/last.h5 >torn.h5
mistake "a damaged file among several" 65 "1 of 2 files are not sound" \
  imgcls h5 verify torn.h5 runs/good/last.h5 </dev/null
IMGCLS_CPU_IAS=avx2 mistake "a variable that no program knows" 78 "IMGCLS_CPU_IAS: unknown variable" \
  imgcls models </dev/null
IMGCLS_CPU_IAS=avx2 "$build/imgcls" models --help | grep -q "^Usage: imgcls models" ||
  { echo "FAILED: help, whatever the variables"; failed=$((failed + 1)); }
for file in runs/good/model-*.h5; do truncate -s 100000 "$file"; done
mistake "only damaged checkpoints" 65 "and none is valid; move them away to start anew" \
  -s train.epochs=2 %INI <<<"$SMALL"
mkdir small
if mount -t tmpfs -o size=3m none small 2>/dev/null; then # root only
  touch small/mounted
  mistake "a full disk" 74 "bytes are needed, 3" -o small/run %INI <<<"$SMALL"
fi

file_limit=4 mistake "a limit on the size of files" 74 "raise the limit on file sizes (ulimit -f)" \
  imgcls data pack images images.imgcls </dev/null
mkfifo pipe && ln -s nowhere lost
mistake "a pipe in place of the packed file" 73 "pipe: exists and is a device, a pipe or a socket" \
  imgcls data pack images pipe </dev/null
mistake "a folder in place of the packed file" 73 "empty: exists and is a folder" \
  imgcls data pack images empty </dev/null
mistake "a link to nothing in place of the packed file" 73 "lost: a link that leads nowhere" \
  imgcls data pack images lost </dev/null
for mode in --dry-run --check-data; do
  into=/dev/full mistake "$mode onto a full disk" 74 "cannot write to standard output" \
    -o runs/full $mode %INI <<<"$SMALL"
done

# --- ranks ----------------------------------------------------------------------------------------
ranks=3 mistake "batch smaller than the ranks" 78 \
  "[train] batch = 2: fewer images than the 3 workers that share them; use at least 3" \
  -s train.batch=2 %INI <<<"$GOOD"
ranks=3 mistake "ranks that do not divide the workers" 78 \
  "[train] virtual_workers = 4: 3 ranks do not divide it" \
  -s train.virtual_workers=4 %INI <<<"$GOOD"
ranks=2 mistake "the work of one process on two ranks" 66 "m.h5: cannot be opened" \
  imgcls predict m.h5 cat.png </dev/null
ranks=2 mistake "and that it is" 66 \
  "predict is the work of one process: rank 0 does it, the other of 2 ranks nothing" \
  imgcls predict m.h5 cat.png </dev/null
ranks=3 mistake "typo in a key, on three ranks" 78 "unknown key [train] bacth; did you mean batch?" \
  -s train.bacth=4 %INI <<<"$GOOD"

echo "$rows mistakes, $failed not answered as they should be"
(( failed == 0 && rows >= 65 ))
