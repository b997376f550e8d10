#!/bin/sh
# Run pytest with an AArch64 Python under emulation: aarch64.sh FOLDER PYTEST-ARGUMENTS…
#
# FOLDER keeps what this takes: qemu-user and Debian's Python of that architecture, which are
# unpacked, not installed, and wheels of the dependencies. Wants Debian or Ubuntu, and PYTHON with
# pip. Emulated code is ten to fifty times slower; kernels are compiled once for each FOLDER.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
for tool in apt-get dpkg-deb; do
  command -v $tool > /dev/null || { echo "error: $tool is needed: run this on Debian or Ubuntu" >&2; exit 2; }
done

# A state of apt's own, so that the machine's is as it was.
fetch() { # fetch ARCHITECTURE PACKAGE… into $folder/debs
  architecture=$1
  shift
  state="$folder/apt-$architecture"
  mkdir -p "$state/lists/partial" "$folder/debs/partial"
  touch "$state/status"
  cat > "$state/apt.conf" << CONF
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Sandbox::User "";
Debug::NoLocking "1";
Dir::State "$state";
Dir::State::status "$state/status";
Dir::Cache "$state";
Dir::Cache::archives "$folder/debs";
CONF
  APT_CONFIG="$state/apt.conf" apt-get -qq update
  APT_CONFIG="$state/apt.conf" apt-get -qq --no-install-recommends -d -y install "$@"
}

if [ ! -e "$folder/unpacked" ]; then
  host=$(dpkg --print-architecture)
  fetch "$host" qemu-user-static
  fetch arm64 python3.11 libstdc++6
  for package in "$folder"/debs/*_arm64.deb "$folder"/debs/*_all.deb; do
    dpkg-deb -x "$package" "$folder/root"
  done
  dpkg-deb -x "$folder"/debs/qemu-user-static_*_"$host".deb "$folder/qemu"
  touch "$folder/unpacked"
fi

if [ ! -e "$folder/wheels" ] || [ "$top/pyproject.toml" -nt "$folder/wheels" ]; then
  platforms=$(printf -- '--platform manylinux%s_aarch64 ' _2_17 2014 _2_24 _2_26 _2_27 _2_28 _2_31 _2_34)
  "${PYTHON:-python3}" "$top/tests/minimum.py" --any pytest pytest-timeout hypothesis safetensors \
    > "$folder/wanted.txt"
  # shellcheck disable=SC2086 # a list of options
  "${PYTHON:-python3}" -m pip --disable-pip-version-check -q install --upgrade \
    --target "$folder/site" $platforms --python-version 3.11 --implementation cp \
    --only-binary=:all: -r "$folder/wanted.txt"
  ln -sfn "$top" "$folder/site/anamnesis"
  touch "$folder/wheels"
fi

# A Python that starts others like itself: sys.executable is this script.
mkdir -p "$folder/bin"
cat > "$folder/bin/python" << PYTHON
#!/bin/sh
export PYTHONHOME="$folder/root/usr" PYTHONPATH="$folder/site"
exec "$folder/qemu/usr/bin/qemu-aarch64-static" -L "$folder/root" -0 "$folder/bin/python" \\
  "$folder/root/usr/bin/python3.11" "\$@"
PYTHON
chmod +x "$folder/bin/python"

export ANAMNESIS_CACHE="$folder/cache" PYTHONDONTWRITEBYTECODE=1
cd "$top"
"$folder/bin/python" -c 'import platform; print(platform.machine(), platform.python_version())'
exec "$folder/bin/python" -m pytest -q --timeout=1200 -p no:cacheprovider "$@"
