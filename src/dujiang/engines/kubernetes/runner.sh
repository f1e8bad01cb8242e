#!/bin/sh
# Runs one rank of an attempt inside its container. POSIX shell, with `cat`, `mkdir` and `sleep` from the image.
#
#   runner run RANK        the container's first process
#   runner ask WORD ...    beside it, started by the platform (exec) or by the kubelet before it ends the container
#
# What is asked: `stop CAUSE CENTISECONDS`, `signal NUMBER`, `go`, `term`. Beside this file lie `launch` (variables that
# `pods` writes), `run` and, of an attempt that has them, `env` (variables of the program), `setup` and `lineage.json`.
# Where a file `forgotten` is there the attempt has been before, and nothing of it is run. How it ended is written, as lines NAME=VALUE, where Kubernetes
# takes a container's last word from; nothing is ever printed, so that the container's output is the program's alone.
#
# Two shells: the first process runs the program in its foreground, because only then a shell leaves SIGINT and SIGQUIT
# as they were, and says on its error output when a signal ended it: so exit code 137 is told from SIGKILL. The watcher
# beside it obeys, keeps the time limit, and sends the signals of a stop.

[ "$1" != ask ] || trap '' TERM # which a stop that began just before sends to everything

dj_bin=${0%/*}
. "$dj_bin/launch"

dj_main() {
    dj_rank=$1
    dj_path=$PATH
    PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    trap : TERM # deaf to it, and the program is not: the watcher hears of an end from elsewhere
    dj_clock
    dj_began=$dj_now
    dj_check
    : >"$dj_state/said"
    exec 2>>"$dj_state/said"
    dj_prepare
    dj_watch &
    dj_watcher=$!
    if [ "$dj_rank" = 0 ]; then
        if [ -n "$dj_setup" ]; then
            dj_run setup "$dj_setup"
            [ "$dj_status" = 0 ] && [ -z "$dj_cause" ] || dj_finish SetupFailed
        fi
        [ -z "$dj_lineage" ] || dj_find_lineage
        : >"$dj_state/went"
        [ -z "$dj_go" ] || : >"$dj_go"
    elif [ -n "$dj_setup" ]; then
        until [ -e "$dj_state/go" ] || { [ -n "$dj_go" ] && [ -e "$dj_go" ]; } || dj_find_stop; do sleep 0.2; done
    fi
    dj_run run "$dj_text"
    dj_finish Exited
}

dj_check() {
    [ ! -e "$dj_bin/forgotten" ] || dj_fail "this attempt was over and forgotten before its Pod was made"
    for dj_tool in cat mkdir sleep; do
        command -v "$dj_tool" >/dev/null || dj_fail "the image has no command $dj_tool, which starting a job needs"
    done
    umask 022
    mkdir -p "$dj_state" 2>/dev/null || dj_fail "the folder $dj_state cannot be made in the container"
}

dj_prepare() {
    [ -z "$dj_own" ] || dj_folder "$dj_workdir"
    dj_folder "$dj_output"
    [ -z "$dj_checkpoint" ] || dj_folder "$dj_checkpoint"
    cd "$dj_workdir" || dj_fail "the working directory $dj_workdir is not a folder in the container"
}

dj_folder() {
    mkdir -p "$1" || dj_fail "the folder $1 cannot be made in the container: $(cat "$dj_state/said")"
}

# Find out, with the image's own Python, what the program is made from; what fails leaves nothing.
dj_find_lineage() {
    (
        dj_set
        PATH=$dj_path
        for dj_tool in python3 python; do
            if command -v "$dj_tool" >/dev/null; then
                exec "$dj_tool" -sS "$dj_bin/lineage.pyz" "$dj_bin/lineage.json" "$dj_workdir" "$dj_state/facts"
            fi
        done
    ) >/dev/null
}

# Run a text; leaves dj_status, dj_signal (empty: it exited) and dj_cause (empty: nothing had asked it to stop).
dj_run() {
    : >"$dj_state/said"
    (
        read -r dj_pid dj_rest </proc/self/stat
        echo "$dj_pid" >"$dj_state/leader"
        : >"$dj_state/unstarted"
        if dj_find_stop; then exit 0; fi
        trap - TERM
        exec 2>&1
        case $2 in
            script)
                read -r dj_words <"$dj_bin/$1"
                for dj_command in ${dj_words#??}; do break; done
                ;;
            file) dj_command=/bin/sh ;;
            *) dj_command=/bin/sh dj_words=$(cat "$dj_bin/$1") ;;
        esac
        command -v "$dj_command" >/dev/null || exit 126 # its interpreter, where it names one
        dj_set
        PATH=$dj_path
        case $2 in
            script) dj_begin; exec "$dj_bin/$1" ;;
            file) dj_begin; exec "$dj_command" -e "$dj_bin/$1" ;;
            *) dj_begin; exec "$dj_command" -e -c "$dj_words" "$1" ;;
        esac
    )
    dj_status=$?
    dj_signal=
    dj_find_stop || dj_cause=
    if [ "$dj_status" -gt 128 ] && [ "$dj_status" -le 192 ]; then
        # A shell tells of every signal but SIGINT and SIGPIPE.
        if [ -s "$dj_state/said" ] || [ "$dj_status" = 130 ] || [ "$dj_status" = 141 ]; then
            dj_signal=$((dj_status - 128))
        fi
    fi
    dj_unstarted=
    if [ -s "$dj_state/unstarted" ]; then return; fi
    dj_unstarted=1
    [ -n "$dj_cause" ] || dj_fail "the $1 commands cannot be started in the container: status $dj_status"
}

# Set the program's variables, in a shell that does nothing more than begin it.
dj_set() {
    [ ! -e "$dj_bin/env" ] || . "$dj_bin/env"
}

dj_begin() {
    echo begun >"$dj_state/unstarted"
}

# Say whether a stop has begun; dj_cause tells why.
dj_find_stop() {
    for dj_cause in asked limit sibling term; do
        [ -e "$dj_state/stop.$dj_cause" ] && return 0
    done
    return 1
}

# -- the end ----------------------------------------------------------------------------------------------------------

dj_fail() {
    dj_clock
    printf 'v=1\nend=LaunchFailed\nran_cs=%s\nwhy=%s\n' $((dj_now - dj_began)) "$1" >"$dj_last"
    exit 126
}

dj_finish() {
    dj_others
    dj_left_behind=$dj_left
    while [ -n "$dj_cause" ] && [ -n "$dj_left" ]; do # what still saves has the rest of the grace
        sleep 0.1
        dj_others
        dj_left_behind=
    done
    dj_counted
    dj_clock
    {
        printf 'v=1\nend=%s\nstatus=%s\nsignal=%s\n' "$1" "$dj_status" "$dj_signal"
        printf 'cause=%s\nunstarted=%s\nran_cs=%s\n' "$dj_cause" "$dj_unstarted" $((dj_now - dj_began))
        printf 'peak=%s\ncpu_us=%s\noom=%s\nleft=%s\n' "$dj_peak" "$dj_cpu_us" "$dj_oom" "$dj_left_behind"
        dj_facts=
        [ -s "$dj_state/facts" ] && read -r dj_facts <"$dj_state/facts"
        printf 'facts=%s\n' "$dj_facts"
    } >"$dj_last"
    exit "$dj_status"
}

# Leave in dj_left what else runs in the container, as NAME:NUMBER, ten at most.
dj_others() {
    dj_left=
    dj_named=0
    for dj_each in /proc/[0-9]*; do
        dj_pid=${dj_each#/proc/}
        [ "$dj_pid" != "$$" ] && [ "$dj_pid" != "$dj_watcher" ] || continue
        dj_look "$dj_pid" || continue
        case $dj_state_of in Z* | X*) continue ;; esac
        [ "$dj_parent" != 0 ] && [ "$dj_parent" != "$dj_watcher" ] || continue
        case $dj_name in *[!A-Za-z0-9_.:/+-]*) dj_name=process ;; esac
        dj_left=$dj_left${dj_left:+,}$dj_name:$dj_pid
        dj_named=$((dj_named + 1))
        [ "$dj_named" -lt 10 ] || return 0
    done
}

# Read what the limit group of the container has counted, of either version.
dj_counted() {
    dj_peak= dj_cpu_us= dj_oom=
    for dj_each in /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes; do
        [ -r "$dj_each" ] && read -r dj_peak <"$dj_each"
    done
    if [ -r /sys/fs/cgroup/cpu.stat ]; then
        read -r dj_rest dj_cpu_us </sys/fs/cgroup/cpu.stat
    elif [ -r /sys/fs/cgroup/cpuacct/cpuacct.usage ]; then
        read -r dj_rest </sys/fs/cgroup/cpuacct/cpuacct.usage
        dj_cpu_us=$((dj_rest / 1000))
    fi
    for dj_each in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
        [ -r "$dj_each" ] || continue
        while read -r dj_word dj_rest; do
            [ "$dj_word" != oom_kill ] || dj_oom=$dj_rest
        done <"$dj_each"
    done
}

# -- the watcher ------------------------------------------------------------------------------------------------------

dj_watch() {
    dj_woken= dj_timer=
    trap dj_wake USR1
    trap - TERM
    read -r dj_self dj_rest </proc/self/stat
    : >>"$dj_state/requests"
    exec 5<"$dj_state/requests"
    echo "$dj_self" >"$dj_state/watcher"
    dj_stopping= dj_saved= dj_terminated=
    while :; do
        dj_woken=
        while read -r dj_word dj_first dj_second <&5; do dj_obey; done
        dj_advance
        [ "$dj_patience" -gt 0 ] || dj_patience=1
        dj_part=$((dj_patience % 100))
        [ "$dj_part" -gt 9 ] || dj_part=0$dj_part
        sleep $((dj_patience / 100)).$dj_part &
        dj_timer=$!
        [ -z "$dj_woken" ] || kill "$dj_timer"
        wait "$dj_timer"
        kill "$dj_timer"
        wait "$dj_timer"
        dj_timer=
    done 2>/dev/null
}

# End the sleep, and not just the wait for it: what comes in the moment before the wait would wake nobody.
dj_wake() {
    dj_woken=1
    [ -z "$dj_timer" ] || kill "$dj_timer"
}

dj_obey() {
    case $dj_word in
        stop)
            dj_clock
            if [ -z "$dj_stopping" ]; then
                dj_begin_stop "$dj_first" "$dj_second"
            elif [ $((dj_now + dj_second)) -lt "$dj_deadline" ]; then
                dj_deadline=$((dj_now + dj_second))
            fi
            ;;
        term) [ -n "$dj_stopping" ] || dj_begin_stop term "$dj_grace_cs" ;;
        signal) dj_tell_program "$dj_first" ;;
        go) : >"$dj_state/go" ;;
    esac
}

dj_begin_stop() {
    dj_clock
    dj_stopping=$1
    dj_wait=$2
    dj_saves=$dj_save
    case $dj_save in 9 | 15) dj_saves= ;; esac
    if [ "$1" = sibling ]; then # it only waits for the rank that failed
        dj_saves=
        [ "$dj_wait" -le 500 ] || dj_wait=500
    fi
    dj_stop_began=$dj_now
    dj_deadline=$((dj_now + dj_wait))
    : >"$dj_state/stop.$1"
}

# Do what is due: the save signal at once, SIGTERM at half of the grace, SIGKILL at its end; leaves dj_patience.
dj_advance() {
    dj_clock
    dj_patience=1000
    if [ -z "$dj_stopping" ]; then
        [ -n "$dj_limit_cs" ] || return 0
        dj_patience=$((dj_began + dj_limit_cs - dj_now))
        [ "$dj_patience" -gt 1000 ] && dj_patience=1000
        [ "$dj_patience" -le 0 ] || return 0
        dj_begin_stop limit "$dj_grace_cs"
    fi
    if [ "$dj_now" -ge "$dj_deadline" ]; then
        dj_tell_all KILL
        dj_patience=20
        return 0
    fi
    if [ -n "$dj_saves" ] && [ -z "$dj_saved" ]; then
        dj_saved=1
        dj_tell_program "$dj_saves"
    fi
    dj_next=$dj_stop_began
    [ -z "$dj_saves" ] || dj_next=$((dj_stop_began + (dj_deadline - dj_stop_began) / 2))
    if [ -z "$dj_terminated" ] && [ "$dj_now" -ge "$dj_next" ]; then
        dj_terminated=1
        dj_tell_all TERM
        dj_tell_all CONT
    fi
    [ -z "$dj_terminated" ] || dj_next=$dj_deadline
    dj_patience=$((dj_next - dj_now))
    [ "$dj_patience" -le 1000 ] || dj_patience=1000
}

# Signal everything in the container but the runner.
dj_tell_all() {
    if [ "$$" = 1 ]; then
        kill "-$1" -1 # all but the first process and this one, at once: nothing forks away from it
    else
        for dj_each in $(dj_below "$$"); do
            [ "$dj_each" = "$dj_self" ] || kill "-$1" "$dj_each"
        done
    fi
}

# Signal the program under a rank's first process, which is often only a shell that waits: from the top, whoever has a
# handler for the signal gets it, and nobody below them; when nobody has one, the first process gets it.
dj_tell_program() {
    [ -s "$dj_state/leader" ] && read -r dj_leader <"$dj_state/leader" || return 0
    dj_heard=
    dj_waiting=$dj_leader
    while [ -n "$dj_waiting" ]; do
        dj_level=$dj_waiting
        dj_waiting=
        for dj_one in $dj_level; do
            if dj_look "$dj_one" && dj_catches "$1"; then
                kill "-$1" "$dj_one" && dj_heard=1
            else
                dj_children "$dj_one"
                dj_waiting="$dj_waiting $dj_found"
            fi
        done
        dj_waiting=${dj_waiting#"${dj_waiting%%[! ]*}"}
    done
    [ -n "$dj_heard" ] || kill "-$1" "$dj_leader"
}

# -- /proc ------------------------------------------------------------------------------------------------------------

# Leave the centiseconds since the machine's start in dj_now.
dj_clock() {
    read -r dj_up dj_rest </proc/uptime
    dj_now=$((${dj_up%.*} * 100 + 1${dj_up#*.} - 100))
}

# Read a process: dj_name, dj_state_of, dj_parent, dj_caught; false when it is gone.
dj_look() {
    dj_name= dj_state_of= dj_parent=0 dj_caught=0
    [ -r "/proc/$1/status" ] || return 1
    while read -r dj_word dj_value dj_rest; do
        case $dj_word in
            Name:) dj_name=$dj_value ;;
            State:) dj_state_of=$dj_value ;;
            PPid:) dj_parent=$dj_value ;;
            SigCgt:) dj_caught=$dj_value ;;
        esac
    done <"/proc/$1/status"
    [ -n "$dj_state_of" ]
}

# Say whether the process looked at last has a handler for a signal. By halves: a shell may count to 2^63 only.
dj_catches() {
    if [ "$1" -gt 32 ]; then
        [ $((0x${dj_caught%????????} >> ($1 - 33) & 1)) = 1 ]
    else
        [ $((0x${dj_caught#????????} >> ($1 - 1) & 1)) = 1 ]
    fi
}

# Leave the children of a process in dj_found.
dj_children() {
    dj_found=
    for dj_task in "/proc/$1/task/"*; do
        dj_listed=
        [ -r "$dj_task/children" ] && read -r dj_listed <"$dj_task/children"
        dj_found="$dj_found $dj_listed"
    done
    dj_found=${dj_found#"${dj_found%%[! ]*}"}
}

# Print everything below a process.
dj_below() {
    dj_children "$1"
    for dj_child in $dj_found; do
        echo "$dj_child"
        (dj_below "$dj_child")
    done
}

dj_ask() {
    [ -d "$dj_state" ] || PATH=$PATH:/usr/bin:/bin mkdir -p "$dj_state" # the first process has only just begun
    printf '%s\n' "$*" >>"$dj_state/requests"
    [ ! -s "$dj_state/watcher" ] || { read -r dj_watcher <"$dj_state/watcher" && kill -USR1 "$dj_watcher"; }
}

case $1 in
    run) dj_main "$2" ;;
    ask) shift && dj_ask "$@" ;;
esac
