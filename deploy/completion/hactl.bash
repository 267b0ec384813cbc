# SPDX-License-Identifier: Apache-2.0
# Completion of hactl's commands, options, guests and nodes for bash.

# Names from hamgrd's own answer; nothing if it does not answer.
_hactl_names() { # $1: "guests" or "nodes"
    hactl --json status 2>/dev/null | python3 -c '
import json, sys
try:
    data = json.load(sys.stdin)["data"] or {}
except ValueError:
    data = {}
print("\n".join(item["name"] for item in data.get(sys.argv[1], [])))' "$1" 2>/dev/null
}

_hactl_complete() { # words to choose from
    COMPREPLY=($(compgen -W "$*" -- "$_hactl_word"))
}

_hactl() {
    local _hactl_word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local policy="--priority --start-order --restart-max --restart-window --stop-timeout
        --max-downtime --protected"
    local definition="--config --memory --dirty --zero --text --writes --step --slot --seed --disk"
    local words=() word
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $word == --json ]] || words+=("$word")
    done
    COMPREPLY=()
    case $before in
        --to) _hactl_complete "$(_hactl_names nodes)"; return ;;
        --on-slow) _hactl_complete throttle pause abort; return ;;
        --protected) _hactl_complete yes no; return ;;
        --disk) _hactl_complete none direct writeback; return ;;
        --config | --state) COMPREPLY=($(compgen -f -- "$_hactl_word")); return ;;
    esac
    case "${words[0]} ${words[1]}" in
        "guest add") _hactl_complete $definition --uuid --stopped --dry-run $policy ;;
        "guest list") ;;
        "guest set") _hactl_complete "$(_hactl_names guests)" $policy ;;
        "guest start" | "guest stop") _hactl_complete "$(_hactl_names guests)" --detach ;;
        "guest show" | "guest check" | "guest remove") _hactl_complete "$(_hactl_names guests)" ;;
        "cluster init")
            _hactl_complete --name --addr --node-name --id --token --witness --state ;;
        "cluster join")
            _hactl_complete --cluster-id --id --generation --node-name --state ;;
        "cluster add-node") _hactl_complete --addr --id --witness ;;
        "cluster remove-node") _hactl_complete "$(_hactl_names nodes)" ;;
        "wait guest")
            [[ ${#words[@]} -eq 2 ]] && _hactl_complete "$(_hactl_names guests)" ||
                _hactl_complete running stopped --timeout ;;
        "wait nodes") _hactl_complete --timeout ;;
        "guest "*) _hactl_complete add list show check start stop remove set ;;
        "cluster "*) _hactl_complete init join add-node remove-node ;;
        "wait "*) _hactl_complete guest nodes ;;
        "status "*) _hactl_complete --verbose ;;
        "explain "*) _hactl_complete "$(_hactl_names guests)" ;;
        "events "*) _hactl_complete --follow --since --count ;;
        "migrate "*)
            _hactl_complete "$(_hactl_names guests)" --to --detach --max-downtime \
                --deadline --on-slow --forecast ;;
        "migrations "*) _hactl_complete --count ;;
        "failover "*) _hactl_complete "$(_hactl_names guests)" "$(_hactl_names nodes)" --yes ;;
        "fence "*) _hactl_complete "$(_hactl_names nodes)" --yes ;;
        "confirm-fenced "*) _hactl_complete "$(_hactl_names nodes)" --i-have-looked ;;
        "maintenance "*)
            [[ ${#words[@]} -eq 1 ]] && _hactl_complete "$(_hactl_names nodes)" ||
                _hactl_complete on off --wait ;;
        "freeze "* | "unfreeze "* | "leave "*) _hactl_complete "$(_hactl_names nodes)" ;;
        "doctor "*) _hactl_complete "$(_hactl_names nodes)" --here ;;
        "node-shutdown "*) _hactl_complete --timeout ;;
        "cancel "* | "arm "* | "disarm "*) ;;
        *) _hactl_complete status explain events wait guest migrate migrations failover cancel fence \
            confirm-fenced maintenance freeze unfreeze disarm arm leave node-shutdown cluster \
            doctor \
            --json --help --version ;;
    esac
}

complete -F _hactl hactl
