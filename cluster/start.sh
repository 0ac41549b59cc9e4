#!/usr/bin/env bash
# Starts Ray on a machine of one's own, under one address and with a token; options after these go to `ray start`:
#
#   cluster/start.sh head 10.0.0.5                                  the address at which the others reach this machine
#   cluster/start.sh worker 10.0.0.5 --resources='{"rollout": 8}'   the head's; HOST:PORT if its port is not 6379
#
# A worker needs the head's ~/.ray/auth_token. NODE_IP is a worker's own address where the way to the head does not tell
# it. Ray's processes listen on every interface and send the token in the clear: the machines need a network, or a
# firewall, of their own. The dashboard and its job server are off; `--include-dashboard=true` has them on loopback.
set -euo pipefail
umask 077

fail() {
  echo "error: $1" >&2
  exit 2
}

role=${1-}
address=${2-}
[[ $role == head || $role == worker ]] || fail "the first argument is '$role'; allowed: head, worker"
[[ $address =~ ^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?$ ]] || fail "the second argument is '$address'; allowed: HOST or HOST:PORT"
shift 2
host=${address%:*}
port=6379
[[ $address != *:* ]] || port=${address##*:}
export RAY_AUTH_MODE=token

if [[ $role == head ]]; then
  ray get-auth-token --generate >/dev/null 2>&1
  place=(--head --port="$port" --node-ip-address="$host" --include-dashboard=false --dashboard-host=127.0.0.1)
else
  ray get-auth-token >/dev/null 2>&1 || fail "there is no token: copy ~/.ray/auth_token of $host to this machine"
  # The address that this machine has on its way to the head.
  ours='import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).getsockname()[0])'
  way=$(python3 -c "$ours" "$host" "$port" 2>/dev/null) || fail "nothing answers at $host:$port"
  place=(--address="$host:$port" --node-ip-address="${NODE_IP:-$way}")
fi
if [[ -f ~/.ray/auth_token ]]; then
  chmod 600 ~/.ray/auth_token # also where it came by copying
fi
exec ray start "${place[@]}" --disable-usage-stats "$@"
