# SPDX-License-Identifier: Apache-2.0
# Steps of tests/run (sourced): each within its own limit, that of its group, and the whole run's.
# Its user has set `whole` (seconds) and `group_limits` (group -> seconds), and defines `group_of STEP`. A step
# is asked to end, and killed `grace` seconds later, with its own process group and nobody else's. What it said
# is in build/log/STEP.log.

passed=0
failed=0
culprits=()
started=$SECONDS
declare -A spent=() over=()
mkdir -p build/log

# The limit of a step: the least of its own, what its group has left and what the whole run has left.
# Sets `limit`, and `whose`: words for the limit that counts.
choose_limit() { # choose_limit SECONDS GROUP
    local left=$((whole - (SECONDS - started)))
    limit=$1 whose="its own limit"
    if [ "$left" -lt "$limit" ]; then limit=$left whose="what is left of the run's $whole s"; fi
    [ -n "$2" ] || return 0
    left=$((${group_limits[$2]} - ${spent[$2]:-0}))
    if [ "$left" -lt "$limit" ]; then limit=$left whose="what its group, $2, has left of ${group_limits[$2]} s"; fi
    [ "$limit" -lt 0 ] && limit=0
    return 0
}

# Runs a step within its limits; its output goes to a log. Sets `log`.
run() { # run NAME SECONDS COMMAND...
    local name=$1 group began=$SECONDS code limit whose word=ok
    group=$(group_of "$name")
    choose_limit "$2" "$group"
    shift 2
    log=build/log/$name.log
    if [ "$limit" -eq 0 ]; then
        : > "$log"
        code=124
    else
        timeout --kill-after="${grace:-10}" "$limit" "$@" > "$log" 2>&1 < /dev/null
        code=$?
        # 137: it did not heed the end it was asked for; or somebody else killed it, long before.
        [ $code -eq 137 ] && [ $((SECONDS - began)) -ge "$limit" ] && code=124
    fi
    if [ $code -eq 124 ]; then
        echo "$name: not done within $limit s, $whose" >> "$log"
        case $whose in *group*) over[$group]=yes ;; esac
    fi
    if [ -n "$group" ]; then spent[$group]=$((${spent[$group]:-0} + SECONDS - began)); fi
    [ $code -ne 0 ] && word=FAILED
    printf '%-18s %4d s  %s\n' "$name" $((SECONDS - began)) $word
    [ $code -ne 0 ] && tail -n 40 "$log" | sed 's/^/    /'
    return $code
}

# A step that counts as one test.
step() {
    if run "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); culprits+=("$1"); return 1; fi
}

# A step whose tests are counted; `count_X` reads them from its log as "PASSED FAILED".
counted() { # counted COUNTER NAME SECONDS COMMAND...
    local counter=$1 ok=0 good=0 bad=0
    shift
    run "$@" && ok=1
    read -r good bad <<< "$($counter "$log")"
    passed=$((passed + ${good:-0}))
    failed=$((failed + ${bad:-0}))
    # A step that failed without saying which test did (it was killed, or ran nothing) is one.
    if [ $ok -eq 0 ] && [ "${bad:-0}" -eq 0 ]; then failed=$((failed + 1)); fi
    if [ $ok -eq 1 ] && [ "${good:-0}" -eq 0 ]; then ok=0 failed=$((failed + 1)); fi
    if [ $ok -eq 0 ]; then culprits+=("$1$(names_of_failed "$log")"); fi
    [ $ok -eq 1 ]
}
# The tests that a log calls failed, as ctest and the namespaces' harness name them.
names_of_failed() {
    sed -n -e 's/^\t *[0-9]* - \([^ ]*\) (.*/\1/p' -e 's/^FAIL\(ED\)\{0,1\} \([^ ]*\).*/\2/p' "$1" |
        sort -u | head -n 20 | tr '\n' ' ' | sed 's/ *$//; s/^\(.\)/ (\1/; s/\(.\)$/\1)/'
}
count_ctest() {
    sed -n 's/^.*% tests passed, \([0-9]*\) tests failed out of \([0-9]*\)$/\2 \1/p' "$1" |
        { read -r all bad && echo "$((all - bad)) $bad"; }
}
count_line() {
    sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$1" | tail -n 1
}

# What groups took, who of them ran over, and the sum.
tell_groups() {
    local name
    for name in "${!group_limits[@]}"; do
        [ -n "${spent[$name]:-}" ] || continue
        printf '%-24s %5d s of %d%s\n' "$name" "${spent[$name]}" "${group_limits[$name]}" \
            "${over[$name]:+  RAN OVER: its steps were ended}"
    done | sort
}
finish() {
    tell_groups
    if [ $failed -gt 0 ]; then printf 'failed: %s\n' "${culprits[@]}"; fi
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ] && exit 0
    exit 1
}
