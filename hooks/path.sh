# shellcheck shell=sh disable=SC2154
# Puts $uv_mutex/bin first on PATH, and once. For sh, bash, zsh, ksh; read by the lines marked uv-mutex in profiles.
uv_mutex_path=":${PATH-/usr/bin:/bin}:"
while :; do
    case $uv_mutex_path in
    *":$uv_mutex/bin:"*) uv_mutex_path="${uv_mutex_path%%":$uv_mutex/bin:"*}:${uv_mutex_path#*":$uv_mutex/bin:"}" ;;
    *) break ;;
    esac
done
uv_mutex_path=${uv_mutex_path#:}
uv_mutex_path=${uv_mutex_path%:}
export PATH="$uv_mutex/bin${uv_mutex_path:+:$uv_mutex_path}"
unset uv_mutex_path
