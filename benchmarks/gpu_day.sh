#!/usr/bin/env bash
# All measurements that need a GPU, in under ten minutes: encoding, training, then faiss-gpu's k-means and searches.
#
#   bash benchmarks/gpu_day.sh DATA MODELS OUT        on a GPU
#   bash benchmarks/gpu_day.sh DATA MODELS OUT cpu    a dry run: every step, tiny, on the processor
#
# DATA holds the BEIR folders scifact, nfcorpus and medquad, MODELS the folders all-MiniLM-L6-v2 and
# paraphrase-MiniLM-L3-v2. A dry run needs scifact and paraphrase-MiniLM-L3-v2 alone, or the model that GPU_DAY_MODEL
# names. For the last step OUT/vectors holds .npy files of real unit vectors. Each step has a time limit and writes its
# result to OUT. A step that fails does not stop the others; the script then ends with code 1.
set -uo pipefail
[ $# -ge 3 ] || { sed -n '2,10p' "$0"; exit 2; }
data=$1 models=$2 out=$3 device=${4:-cuda}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
mkdir -p "$out"
failed=0

step() {  # NAME SECONDS COMMAND...
  local name=$1 seconds=$2 began=$SECONDS
  shift 2
  if timeout "$seconds" "$@" > "$out/$name.log" 2>&1; then
    echo "$name: done in $((SECONDS - began)) s, $out/$name.json"
  else
    echo "$name: failed with code $? after $((SECONDS - began)) s, see $out/$name.log"
    failed=1
  fi
}

if [ "$device" = cpu ]; then
  encode=(--documents 4 --rounds 1 --seconds 1 --model "$models/${GPU_DAY_MODEL:-paraphrase-MiniLM-L3-v2}")
  train=(--rounds 3 --student "${GPU_DAY_MODEL:-paraphrase-MiniLM-L3-v2}" --batch-size 4 --texts 32)
  train+=(--collections scifact)
else
  encode=(--documents 8192 --rounds 3 --seconds 100 --model "$models/all-MiniLM-L6-v2")
  encode+=(--model "$models/paraphrase-MiniLM-L3-v2")
  train=(--rounds 20 --student paraphrase-MiniLM-L3-v2)
fi
step encode 180 "$python" "$here/encode_gpu.py" --texts "$data/scifact/corpus.jsonl" "${encode[@]}" \
  --device "$device" --output "$out/encode.json"
step train 120 "$python" "$here/step_time.py" --data-dir "$data" --models-dir "$models" "${train[@]}" \
  --device "$device" --output "$out/train.json"
if [ "$device" = cpu ]; then
  step index 60 "$python" "$here/index_gpu.py" --help
else
  step index 280 "$python" "$here/index_gpu.py" --vectors "$out/vectors" --work-dir "$out/index" --count 300000 \
    --rounds 3 --output "$out/index.json"
fi
exit $failed
