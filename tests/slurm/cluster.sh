#!/usr/bin/env bash
# A throw-away Slurm on this machine: munged, slurmdbd with MariaDB, slurmctld and several slurmd; no systemd, no cgroups.
#   cluster.sh install      the Debian packages (root)
#   cluster.sh up | down    start; stop and remove
#   cluster.sh restart      stop and start the controller alone
# SLURM_TEST_DIR (state), SLURM_TEST_NODES, SLURM_TEST_MEM (MB of a node), SLURM_TEST_CPUS (of a node), SLURM_TEST_PORT
set -euo pipefail
dir=${SLURM_TEST_DIR:-/tmp/hqsm-slurm}
nodes=${SLURM_TEST_NODES:-3} mem=${SLURM_TEST_MEM:-3000} cpus=${SLURM_TEST_CPUS:-1} port=${SLURM_TEST_PORT:-16817}
host=$(hostname -s)
conf=$dir/slurm.conf
# the default place: the jobs' inner srun does not inherit SLURM_CONF
link=/etc/slurm/slurm.conf

stop() { # a process of ours by its pid file, and wait until it is gone
  local pid
  [ -s "$1" ] || return 0
  pid=$(cat "$1")
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
}

wait_for() { # seconds, command
  local left=$(($1 * 5)); shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1)); [ $left -gt 0 ] || { echo "waited in vain for: $*" >&2; return 1; }
    sleep 0.2
  done
}

controller_answers() { timeout 5 scontrol ping | grep -q UP; }
nodes_idle() { [ "$(timeout 5 sinfo -h -N -p main -t idle -o %N | sort -u | wc -l)" -ge "$nodes" ]; }
cluster_known() { timeout 5 sacctmgr -n list cluster format=cluster | grep -q ci; }

install() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends \
    slurmctld slurmd slurmdbd slurm-client munge slurm-wlm-basic-plugins mariadb-server >/dev/null
}

write_configuration() {
  cat >"$dir/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
DbdHost=localhost
DbdPort=$((port + 2))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 3))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
PidFile=$dir/run/slurmdbd.pid
LogFile=$dir/log/slurmdbd.log
END
  chmod 600 "$dir/slurmdbd.conf"
  cat >"$conf" <<END
ClusterName=ci
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
CredType=cred/munge
SlurmctldPort=$port
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
# no cgroups: processes are found in /proc, memory is enforced by looking at it
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$dir/run/munge.socket
MinJobAge=600
ReturnToService=2
SlurmdTimeout=30
SlurmctldTimeout=30
KillWait=2
MpiDefault=none
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 100))-$((port + 99 + nodes))] CPUs=$cpus RealMemory=$mem State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
}

start_database() {
  local data=$dir/mysql
  mkdir -p "$data"
  chown mysql "$data"
  mariadb-install-db --no-defaults --user=mysql --datadir="$data" --skip-test-db --auth-root-authentication-method=normal >"$dir/log/mysql-install.log" 2>&1
  mariadbd --no-defaults --user=mysql --datadir="$data" --socket="$data/sock" --port=$((port + 3)) --bind-address=127.0.0.1 \
    --pid-file="$data/pid" --innodb-buffer-pool-size=64M --skip-log-bin >"$dir/log/mysql.log" 2>&1 &
  wait_for 60 mariadb-admin --no-defaults -S "$data/sock" -u root ping
  mariadb --no-defaults -S "$data/sock" -u root -e \
    "create database slurm; create user slurm@localhost identified by 'slurm'; grant all on slurm.* to slurm@localhost;
     create user slurm@'127.0.0.1' identified by 'slurm'; grant all on slurm.* to slurm@'127.0.0.1';"
}

up() {
  if [ -e "$link" ] && [ "$(readlink "$link" || true)" != "$conf" ]; then
    echo "this machine has a Slurm of its own ($link); it is not touched" >&2
    exit 1
  fi
  down
  mkdir -p "$dir"/{run,log,state,spool} /etc/slurm
  chmod 755 "$dir" "$dir/run" "$dir/log"
  ln -sfn "$conf" "$link"
  write_configuration
  head -c 128 /dev/urandom >"$dir/munge.key"
  chmod 600 "$dir/munge.key"
  munged --force --key-file "$dir/munge.key" --socket "$dir/run/munge.socket" --pid-file "$dir/run/munged.pid" \
    --log-file "$dir/log/munged.log" --seed-file "$dir/run/munge.seed" --num-threads 2
  start_database
  ln -sfn "$dir/slurmdbd.conf" /etc/slurm/slurmdbd.conf
  slurmdbd
  wait_for 60 timeout 5 sacctmgr -n list cluster
  timeout 20 sacctmgr -i add cluster ci >/dev/null
  wait_for 20 cluster_known
  slurmctld -f "$conf"
  for k in $(seq "$nodes"); do mkdir -p "$dir/spool/n$k"; slurmd -f "$conf" -N "n$k"; done
  wait_for 60 nodes_idle
  sinfo
}

down() {
  for k in $(seq "$nodes"); do stop "$dir/run/slurmd.n$k.pid"; done
  for pid in "$dir"/run/slurmctld.pid "$dir"/run/slurmdbd.pid "$dir"/mysql/pid "$dir"/run/munged.pid; do stop "$pid"; done
  for path in "$link" /etc/slurm/slurmdbd.conf; do
    case $(readlink "$path" || true) in "$dir"/*) rm -f "$path" ;; esac
  done
  rm -rf "$dir"
}

restart() {
  stop "$dir/run/slurmctld.pid"
  sleep "${1:-1}"
  slurmctld -f "$conf"
  wait_for 30 controller_answers
}

"$@"
