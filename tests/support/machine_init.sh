#!/bin/bash
# The first process of a machine of support/machines.py, a Linux of its own whose root is this machine's. It is told
#   NAME, ADDRESSES (of its interfaces, in order), CLOCK (seconds it is ahead), CONTROL (a folder of this machine's),
#   PYTHON, ROOT (of the project)
# It serves /run/shared, or mounts it, and does what support/on_machines.py is asked for.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run
mount -t proc proc /proc
for word in $(</proc/cmdline); do
    case $word in NAME=* | ADDRESSES=* | CLOCK=* | CONTROL=* | PYTHON=* | ROOT=*) export "$word" ;; esac
done
for folder in /run /var/lib/nfs /lib/modules; do mount -t tmpfs tmpfs $folder; done
mkdir -p /run/control /lib/modules/"$(uname -r)" /var/lib/nfs/{sm,sm.bak,v4recovery}
mount -t hostfs -o "$CONTROL" none /run/control
mount -t hostfs -o /usr/lib/uml/modules/"$(uname -r)" none /lib/modules/"$(uname -r)"
cd /run/control/"$NAME" || exit 1
exec >log 2>&1
hostname "$NAME"
date --set "@$(($(date +%s) + CLOCK))"
ip link set lo up
interface=0
for address in ${ADDRESSES//,/ }; do
    ip address add "$address/24" dev vec$interface && ip link set vec$interface up
    interface=$((interface + 1))
done
if [ "$NAME" = server ]; then
    mkdir /run/shared && mount -t ext4 /dev/ubda /run/shared
    modprobe lockd nlm_grace_period=1 nlm_timeout=3 # nobody has locks to claim again, of this kind or of NFS 4's
    modprobe nfsd && mount -t nfsd nfsd /proc/fs/nfsd
    touch /var/lib/nfs/{etab,rmtab}
    rpcbind -w
    exportfs -o rw,insecure,no_root_squash,no_subtree_check,fsid=0 '*:/run/shared'
    rpc.mountd && rpc.nfsd 2
    echo Y >/proc/fs/nfsd/v4_end_grace
    while true; do sleep 1000; done
fi
modprobe nfsv4 && modprobe nfsv3
mkdir /run/shared /run/without_locks
server=${ADDRESSES%.*}.1
until mount -t nfs -o vers=4.2 "$server":/ /run/shared; do sleep 0.2; done
mount -t nfs -o vers=3,nolock "$server":/run/shared /run/without_locks
cd "$ROOT" || exit 1
export PYTHONPATH=$ROOT/src:$ROOT/tests PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
"$PYTHON" -m support.on_machines
