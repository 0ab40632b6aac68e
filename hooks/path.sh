# shellcheck shell=sh disable=SC2154
# Put $uv_mutex/bin first on PATH, and remove it elsewhere. For sh, bash, zsh and ksh: the lines that are marked
# uv-mutex in a profile set $uv_mutex and read this file.
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
