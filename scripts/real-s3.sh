#!/usr/bin/env bash
# A real S3 server on loopback for tests and benchmarks: Ceph's RADOS Gateway over one mon and one osd. Debian or
# Ubuntu, as root; the packages are installed when they are missing.
#
#   scripts/real-s3.sh DIR [start|stop|wipe]    all data, logs and pid files live under DIR
#   eval "$(scripts/real-s3.sh DIR)"            exports S3_ENDPOINT S3_REGION S3_ACCESS_KEY_ID S3_SECRET_ACCESS_KEY;
#                                               with these set, the S3 tests run against it
#
# Environment; the first three are kept in DIR by its first start:
#   S3_PORT   7480; the next two ports are the mon's
#   S3_STORE  bluestore (a sparse file) or memstore (RAM: empty again after every stop)
#   S3_SIZE   20G
#   S3_CONF   more lines for ceph.conf, read whenever the gateway starts
set -euo pipefail

usage='usage: real-s3.sh DIR [start|stop|wipe]'
dir=$(realpath -m "${1:?$usage}")
conf=$dir/ceph.conf
key=nexustestkey
secret=nexustestsecret0123456789

say() { echo "real-s3: $*" >&2; }

# The value that the first start wrote down.
keep() {
  [[ -s $dir/$1 ]] || echo "$2" >"$dir/$1"
  cat "$dir/$1"
}

uuid() { cat /proc/sys/kernel/random/uuid; }

# Whether a pid file names a live process that runs with our configuration.
alive() {
  local pid
  pid=$(cat "$dir/run/$1.pid" 2>/dev/null) && [[ $pid ]] && grep -qsF -- "$conf" "/proc/$pid/cmdline"
}

# The gateway first, and only the processes whose ids our daemons wrote down.
stop() {
  local daemon pid i patience
  for daemon in client.rgw osd.0 mon.a; do
    if alive "$daemon"; then
      pid=$(<"$dir/run/$daemon.pid")
      patience=200
      # Newer gateways hang in their shutdown; they hold no state.
      [[ $daemon != client.rgw ]] || patience=40
      kill "$pid"
      for ((i = 0; i < patience + 50; i++)); do
        ((i != patience)) || kill -KILL "$pid"
        alive "$daemon" || break
        sleep 0.1
      done
      ! alive "$daemon" || { say "$daemon is still running"; exit 1; }
    fi
    rm -f "$dir/run/$daemon.pid"
  done
}

case ${2:-start} in
  start) ;;
  stop)
    stop
    exit
    ;;
  wipe)
    [[ ! -e $dir || -e $dir/store ]] || { say "$dir was not made by this script"; exit 1; }
    stop
    rm -rf "$dir"
    exit
    ;;
  *)
    say "$usage"
    exit 2
    ;;
esac

if ! type ceph ceph-mon ceph-osd radosgw curl &>/dev/null; then
  say 'installing Ceph'
  {
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ceph-mon ceph-osd ceph-common radosgw curl
  } >&2
fi

mkdir -p "$dir"/{run,log}
# From here on stdout is the log, and 3 is the caller's stdout. Two starts at once wait for each other.
exec 3>&1 1>>"$dir/log/setup.log" 9>"$dir/lock"
flock 9
trap 'say "failed at line $LINENO; see $dir/log"' ERR

store=$(keep store "${S3_STORE:-bluestore}")
port=$(keep port "${S3_PORT:-7480}")
size=$(keep size "${S3_SIZE:-20G}")
if [[ $store == memstore ]] && ! alive osd.0; then
  stop
  rm -rf "$dir"/{mon,osd,fsid,osd_uuid}
fi
fsid=$(keep fsid "$(uuid)")
osd_uuid=$(keep osd_uuid "$(uuid)")
addr="[v2:127.0.0.1:$((port + 1)),v1:127.0.0.1:$((port + 2))]"

# `ms mon client mode`: without authentication the gateway never comes up otherwise. `tcp_nodelay`: most answers take
# 44 ms without it. `paxos propose interval`: setting up pools takes seconds at its default.
alive client.rgw || cat >"$conf" <<CONF
[global]
fsid = $fsid
mon host = $addr
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
run dir = $dir/run
pid file = $dir/run/\$name.pid
log file = $dir/log/\$name.log
mon data = $dir/mon
mon data avail crit = 0
mon allow pool size one = true
paxos propose interval = 0.05
osd data = $dir/osd
osd objectstore = $store
osd memory target = 1G
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
memstore device bytes = $size
bluestore block size = $size
rgw frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
rgw run sync thread = false
${S3_CONF:-}
CONF

# A Ceph program with our configuration, into the log. Closed descriptors: a daemon that keeps the caller's stdout
# open would make $( ) wait for ever.
c() { timeout 120 "$@" -c "$conf" 2>&1 3>&- 9>&-; }

if [[ ! -e $dir/mon/made ]]; then
  monmaptool --create --clobber --addv a "$addr" --fsid "$fsid" "$dir/monmap"
  rm -rf "$dir/mon"
  mkdir "$dir/mon"
  c ceph-mon --mkfs -i a --monmap "$dir/monmap"
  touch "$dir/mon/made"
fi
alive mon.a || c ceph-mon -i a
if [[ ! -e $dir/osd/made ]]; then
  rm -rf "$dir/osd"
  mkdir "$dir/osd"
  c ceph osd new "$osd_uuid"
  c ceph-osd -i 0 --mkfs --osd-uuid "$osd_uuid"
  touch "$dir/osd/made"
fi
alive osd.0 || c ceph-osd -i 0
if [[ ! -e $dir/mon/user ]]; then
  # The pools now, or the first requests take seconds each.
  for pool in log control meta buckets.index buckets.data buckets.non-ec; do
    c ceph osd pool create "default.rgw.$pool" 4
  done
  c radosgw-admin user create --uid=nexus --display-name=nexus --access-key="$key" --secret-key="$secret"
  touch "$dir/mon/user"
fi
alive client.rgw || c radosgw -n client.rgw
for ((i = 0; i < 600; i++)); do
  ! curl -so /dev/null "http://127.0.0.1:$port/" || break
  sleep 0.1
done
alive client.rgw || { say "nothing of ours on port $port; see $dir/log"; exit 1; }

printf 'export %s\n' "S3_ENDPOINT=http://127.0.0.1:$port" S3_REGION=us-east-1 \
  "S3_ACCESS_KEY_ID=$key" "S3_SECRET_ACCESS_KEY=$secret" >&3
