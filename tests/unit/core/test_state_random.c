/* SPDX-License-Identifier: Apache-2.0
 *
 * Long random logs: plausible commands, wrong ones, late ones, views that come and go. After each
 * entry the state must hold together, and an outside observer, who remembers every owner record
 * there ever was, must find the rules kept that no single state can show:
 *
 *   - an epoch labels one node's copy for ever, and every new label is higher than all before (I4);
 *   - a guest becomes free only by its owner's NOT_RUNNING or its owner's FENCED or reboot (I3);
 *   - who owns a guest changes only through free, or by SWITCH and REVERT of its open ticket (I8);
 *   - no promise of memory is made beyond the capacity (I14);
 *   - a replica that starts from a snapshot in the middle ends with the same bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/builders.h"

#define NODES  5u
#define GUESTS 8u
#define EPOCHS 4096u
#define STEPS  4000u
#define SEEDS  100u

struct observer {
    uint64_t seed;
    struct build *b;
    struct build *replica;
    struct ha_rng rng;
    struct ha_guest before[GUESTS + 1]; /* phase FREE and epoch 0 while it does not exist */
    uint64_t used_before[NODES + 1];
    uint64_t incarnation_before[NODES + 1];
    uint64_t boot_changes;              /* reboots told to the next view, by node as bits */
    uint32_t label[GUESTS + 1][EPOCHS]; /* node that an epoch labels; 0 = none yet */
    uint64_t label_high[GUESTS + 1];
    struct ha_cmd late[16]; /* commands kept to be repeated when they are stale */
    uint32_t late_count;
};

static uint64_t effects[64]; /* by command type, over all seeds; OPEN counts as 0 */

static void fail_at(const struct observer *o, const char *what, uint32_t guest)
{
    fail_msg("seed %llu, entry %llu (%s): g%u: %s", (unsigned long long)o->seed,
             (unsigned long long)o->b->state.applied, ha_cmd_name(o->b->applied.cmd.type), guest,
             what);
}

/* --- Observing --- */

static void remember(struct observer *o)
{
    for (uint32_t g = 1; g <= GUESTS; g++) {
        const struct ha_guest *guest = ha_state_guest(&o->b->state, build_uuid(g));
        if (guest)
            o->before[g] = *guest;
        else
            memset(&o->before[g], 0, sizeof(o->before[g]));
    }
    for (uint32_t n = 1; n <= NODES; n++) {
        o->used_before[n] = ha_state_mem_used_kib(&o->b->state, n);
        const struct ha_node *node = ha_state_node(&o->b->state, n);
        o->incarnation_before[n] = node ? node->incarnation : 0;
    }
}

static void check_label(struct observer *o, uint32_t g, const struct ha_guest *now)
{
    uint64_t epoch = now->epoch;

    if (now->phase == HA_PHASE_FREE)
        return;
    assert_true(epoch < EPOCHS);
    if (o->label[g][epoch] == now->node)
        return;
    if (o->label[g][epoch] != 0)
        fail_at(o, "I4: one epoch labels copies on two nodes", g);
    if (epoch <= o->label_high[g])
        fail_at(o, "I4: a new label is not above all earlier ones", g);
    o->label[g][epoch] = now->node;
    o->label_high[g] = epoch;
}

static bool is_freeing(const struct observer *o, uint32_t g)
{
    const struct ha_applied *applied = &o->b->applied;
    const struct ha_guest *was = &o->before[g];

    if (applied->kind == LOG_KIND_OPEN)
        return (o->boot_changes & (1u << was->node)) != 0;
    if (applied->cmd.type == HA_CMD_FENCED)
        return applied->cmd.node == was->node && applied->cmd.incarnation == was->incarnation;
    return applied->cmd.type == HA_CMD_NOT_RUNNING &&
           ha_uuid_equal(applied->cmd.guest, build_uuid(g)) && applied->cmd.node == was->node &&
           applied->cmd.incarnation == was->incarnation && applied->cmd.epoch == was->epoch;
}

static void check_owner(struct observer *o, uint32_t g, const struct ha_guest *now)
{
    const struct ha_guest *was = &o->before[g];
    uint8_t type = o->b->applied.cmd.type;

    if (was->phase == HA_PHASE_FREE) {
        if (now->phase != HA_PHASE_FREE && type != HA_CMD_ASSIGN)
            fail_at(o, "owned without ASSIGN", g);
    } else if (now->phase == HA_PHASE_FREE) {
        if (!is_freeing(o, g))
            fail_at(o, "I3: freed without its owner's word or death", g);
    } else if (now->node != was->node) {
        bool is_switch = type == HA_CMD_SWITCH && was->phase == HA_PHASE_MIGRATING &&
                         now->phase == HA_PHASE_SWITCHED && now->node == was->ticket.dst &&
                         now->epoch == was->ticket.dst_epoch;
        bool is_revert = type == HA_CMD_REVERT && was->phase == HA_PHASE_SWITCHED &&
                         now->phase == HA_PHASE_RUNNING && now->node == was->ticket.src &&
                         now->epoch == was->ticket.src_epoch;
        if (!is_switch && !is_revert)
            fail_at(o, "I8: another owner without SWITCH or REVERT", g);
    }
    if (now->epoch_high < was->epoch_high)
        fail_at(o, "I4: the highest epoch went down", g);
}

static void check_memory(const struct observer *o)
{
    for (uint32_t n = 1; n <= NODES; n++) {
        const struct ha_node *node = ha_state_node(&o->b->state, n);
        uint64_t used = ha_state_mem_used_kib(&o->b->state, n);
        if (node && used > o->used_before[n] && used > node->mem_kib)
            fail_at(o, "I14: memory promised beyond the capacity", 0);
    }
}

static void check_refusal_changed_nothing(const struct observer *o)
{
    for (uint32_t g = 1; g <= GUESTS; g++) {
        const struct ha_guest *guest = ha_state_guest(&o->b->state, build_uuid(g));
        static const struct ha_guest none;
        if (memcmp(guest ? guest : &none, &o->before[g], sizeof(none)) != 0)
            fail_at(o, "a refused command changed a guest", g);
    }
}

static void observe(struct observer *o)
{
    const char *violation = ha_state_violation(&o->b->state);

    if (violation)
        fail_at(o, violation, 0);
    if (o->b->applied.is_noop) {
        check_refusal_changed_nothing(o);
        return;
    }
    effects[o->b->applied.cmd.type]++;
    for (uint32_t g = 1; g <= GUESTS; g++) {
        const struct ha_guest *guest = ha_state_guest(&o->b->state, build_uuid(g));
        if (!guest)
            continue;
        check_owner(o, g, guest);
        check_label(o, g, guest);
    }
    check_memory(o);
}

/* --- Acting --- */

static uint64_t below(struct observer *o, uint64_t bound)
{
    return ha_rng_below(&o->rng, bound);
}

static uint32_t any_node(struct observer *o)
{
    return 1 + (uint32_t)below(o, NODES);
}

static uint32_t any_guest(struct observer *o)
{
    return 1 + (uint32_t)below(o, GUESTS);
}

static void fill_node(struct observer *o, struct ha_cmd *cmd)
{
    switch (cmd->type) {
    case HA_CMD_NODE_ADD:
        snprintf(cmd->u.node_add.name, sizeof(cmd->u.node_add.name), "n%u", cmd->node);
        break;
    case HA_CMD_ARMED:
        cmd->epoch = o->b->state.applied - below(o, 3);
        cmd->u.armed.lease_ms = 5000 + (uint32_t)below(o, 3) * 1000;
        cmd->u.armed.watchdog_ms = 5000;
        break;
    case HA_CMD_FENCED:
        cmd->u.fenced.evidence = (uint8_t)below(o, 5);
        break;
    case HA_CMD_MAINTENANCE:
        cmd->u.maintenance.is_on = below(o, 3) == 0;
        break;
    case HA_CMD_CAPACITY:
        cmd->u.capacity.mem_kib = below(o, 8) == 0 ? below(o, 4) * BUILD_GUEST_KIB : BUILD_MEM_KIB;
        break;
    default:
        break;
    }
}

/* Types by weight: arming and capacity often, or nothing else would get far. */
static struct ha_cmd node_command(struct observer *o)
{
    static const uint8_t often[] = {HA_CMD_ARMED, HA_CMD_ARMED, HA_CMD_ARM, HA_CMD_UNFREEZE,
                                    HA_CMD_FENCED};
    static const uint8_t types[] = {
        HA_CMD_CAPACITY,    HA_CMD_UNARMED,    HA_CMD_LEAVE,    HA_CMD_FREEZE,      HA_CMD_DISARM,
        HA_CMD_MAINTENANCE, HA_CMD_FENCE_WANT, HA_CMD_NODE_ADD, HA_CMD_NODE_REMOVE,
    };
    uint8_t type =
        below(o, 8) != 0 ? often[below(o, sizeof(often))] : types[below(o, sizeof(types))];
    struct ha_cmd cmd = build_node_command(o->b, type, any_node(o));

    fill_node(o, &cmd);
    return cmd;
}

static struct ha_cmd guest_add(struct observer *o, uint32_t guest)
{
    static const struct ha_digest none;
    struct ha_cmd cmd = build_guest_command(o->b, HA_CMD_GUEST_ADD, guest);

    snprintf(cmd.u.guest_add.name, sizeof(cmd.u.guest_add.name), "g%u", guest);
    cmd.u.guest_add.mem_kib = BUILD_GUEST_KIB * (1 + below(o, 3));
    cmd.u.guest_add.want = below(o, 4) != 0;
    cmd.u.guest_add.policy = ha_policy_default();
    cmd.u.guest_add.policy.is_protected = below(o, 4) != 0;
    cmd.u.guest_add.definition = ha_digest_bytes(none, "", 0);
    return cmd;
}

static void fill_guest(struct observer *o, struct ha_cmd *cmd, const struct ha_guest *guest)
{
    const struct ha_node *node = ha_state_node(&o->b->state, any_node(o));

    switch (cmd->type) {
    case HA_CMD_GUEST_SET:
        cmd->u.guest_set.policy = ha_policy_default();
        cmd->u.guest_set.policy.priority = (uint16_t)below(o, 1002);
        break;
    case HA_CMD_WANT:
        cmd->u.want.want = below(o, 4) != 0;
        break;
    case HA_CMD_ASSIGN:
        cmd->epoch = guest->epoch_high + 1;
        cmd->node = node ? node->id : 1;
        cmd->incarnation = node ? node->incarnation : 1;
        break;
    case HA_CMD_STOP:
        cmd->u.stop.mode = (uint8_t)(1 + below(o, 2));
        cmd->u.stop.is_relocation = below(o, 2) != 0;
        break;
    case HA_CMD_NOT_RUNNING:
        cmd->u.not_running.cause = (uint8_t)(1 + below(o, 6));
        break;
    case HA_CMD_MIGRATE:
        cmd->epoch = guest->epoch_high + 1;
        cmd->u.migrate.dst = node ? node->id : 2;
        cmd->u.migrate.dst_incarnation = node ? node->incarnation : 2;
        break;
    case HA_CMD_REVERT:
        cmd->node = guest->ticket.dst;
        cmd->incarnation = guest->ticket.dst_incarnation;
        break;
    case HA_CMD_SWITCH:
    case HA_CMD_ABORT:
    case HA_CMD_ARRIVED:
        cmd->node = below(o, 2) == 0 ? 0 : guest->ticket.dst;
        cmd->incarnation = guest->ticket.dst_incarnation;
        break;
    default:
        break;
    }
}

/* Mostly what the phase calls for, sometimes anything. */
static uint8_t guest_type(struct observer *o, const struct ha_guest *guest)
{
    static const uint8_t likely[HA_PHASE_COUNT][4] = {
        [HA_PHASE_FREE] = {HA_CMD_ASSIGN, HA_CMD_ASSIGN, HA_CMD_ASSIGN, HA_CMD_WANT},
        [HA_PHASE_ASSIGNED] = {HA_CMD_STARTED, HA_CMD_STARTED, HA_CMD_STARTED, HA_CMD_NOT_RUNNING},
        [HA_PHASE_RUNNING] = {HA_CMD_MIGRATE, HA_CMD_MIGRATE, HA_CMD_MIGRATE, HA_CMD_STOP},
        [HA_PHASE_STOPPING] = {HA_CMD_NOT_RUNNING, HA_CMD_NOT_RUNNING, HA_CMD_STOP, HA_CMD_WANT},
        [HA_PHASE_MIGRATING] = {HA_CMD_SWITCH, HA_CMD_SWITCH, HA_CMD_ABORT, HA_CMD_NOT_RUNNING},
        [HA_PHASE_SWITCHED] = {HA_CMD_ARRIVED, HA_CMD_REVERT, HA_CMD_REVERT, HA_CMD_NOT_RUNNING},
    };

    if (below(o, 4) != 0)
        return likely[guest->phase][below(o, 4)];
    return (uint8_t)(HA_CMD_GUEST_SET + below(o, HA_CMD_CLEAR - HA_CMD_GUEST_SET + 1));
}

static struct ha_cmd guest_command(struct observer *o)
{
    uint32_t g = any_guest(o);
    const struct ha_guest *guest = ha_state_guest(&o->b->state, build_uuid(g));

    if (!guest)
        return guest_add(o, g);
    struct ha_cmd cmd = build_guest_command(o->b, guest_type(o, guest), g);
    fill_guest(o, &cmd, guest);
    return cmd;
}

/* Breaks one presumption, or leaves the command as it is. */
static void spoil(struct observer *o, struct ha_cmd *cmd)
{
    switch (below(o, 20)) {
    case 0:
        cmd->node = (uint32_t)below(o, NODES + 2);
        break;
    case 1:
        cmd->incarnation = below(o, o->b->state.incarnation_high + 2);
        break;
    case 2:
        cmd->epoch = below(o, cmd->epoch + 3);
        break;
    case 3:
        cmd->ticket = below(o, o->b->state.applied + 2);
        break;
    case 4:
        cmd->guest = build_uuid(any_guest(o));
        break;
    default:
        break;
    }
}

static void command(struct observer *o)
{
    struct ha_cmd cmd;

    if (o->late_count > 0 && below(o, 8) == 0) {
        cmd = o->late[below(o, o->late_count)];
    } else {
        cmd = below(o, 3) == 0 ? node_command(o) : guest_command(o);
        spoil(o, &cmd);
    }
    if (cmd.type != HA_CMD_GUEST_ADD && below(o, 4) == 0) {
        uint32_t slot = (uint32_t)below(o, 16);
        if (slot >= o->late_count)
            slot = o->late_count++;
        o->late[slot] = cmd;
    }
    build_cmd(o->b, &cmd);
}

static void open_view(struct observer *o)
{
    uint32_t nodes[NODES + 1] = {0};
    uint32_t count = 0;

    for (uint32_t n = 1; n <= NODES; n++) {
        switch (below(o, 12)) {
        case 0:
            build_restart(o->b, n);
            break;
        case 1:
            build_reboot(o->b, n);
            o->boot_changes |= 1u << n;
            break;
        default:
            break;
        }
        if (below(o, 4) != 0)
            nodes[count++] = n;
    }
    if (count == 0)
        nodes[count++] = 1;
    build_open(o->b, below(o, 3) != 0, nodes);
}

/* A reboot counts until the view that shows it. */
static void forget_shown_reboots(struct observer *o)
{
    for (uint32_t n = 1; n <= NODES; n++) {
        const struct ha_node *node = ha_state_node(&o->b->state, n);
        if (node && node->incarnation != o->incarnation_before[n])
            o->boot_changes &= ~(UINT64_C(1) << n);
    }
}

static void follow_with_replica(struct observer *o)
{
    struct ha_applied applied;
    int rc = ha_state_apply(&o->replica->state, &o->b->entry, &applied);

    assert_int_equal(rc, 0);
    assert_int_equal(applied.refusal, o->b->applied.refusal);
}

static void restart_replica(struct observer *o)
{
    static uint8_t data[65536];
    int64_t size = ha_state_encode(&o->b->state, data, sizeof(data));

    assert_true(size > 0);
    assert_int_equal(ha_state_decode(&o->replica->state, data, (size_t)size), 0);
}

static void check_replica(const struct observer *o)
{
    struct build_picture here, there;

    build_picture(o->b, &here);
    build_picture(o->replica, &there);
    assert_int_equal(here.size, there.size);
    assert_memory_equal(here.bytes, there.bytes, (size_t)here.size);
    assert_true(ha_digest_equal(o->b->state.digest, o->replica->state.digest));
}

static void run(struct observer *o)
{
    o->b = build_new(GUESTS);
    o->replica = build_new(GUESTS);
    o->rng.state = o->seed;
    build_ready(o->b, NODES);
    restart_replica(o);
    for (uint32_t step = 0; step < STEPS; step++) {
        remember(o);
        if (below(o, 60) == 0)
            open_view(o);
        else if (below(o, 60) == 0)
            build_voter(o->b, below(o, 3) == 0, any_node(o));
        else
            command(o);
        follow_with_replica(o);
        observe(o);
        if (o->b->applied.kind == LOG_KIND_OPEN)
            forget_shown_reboots(o);
        if (below(o, 500) == 0) {
            check_replica(o);
            restart_replica(o);
        }
    }
    check_replica(o);
    build_free(o->replica);
    build_free(o->b);
}

static void random_logs_keep_the_rules(void **unused)
{
    static struct observer o;

    (void)unused;
    memset(effects, 0, sizeof(effects));
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        memset(&o, 0, sizeof(o));
        o.seed = seed;
        run(&o);
    }
    /* A log in which a command never takes effect would prove nothing about it. */
    for (uint8_t type = HA_CMD_NODE_ADD; type <= HA_CMD_CLEAR; type++) {
        if (ha_cmd_name(type)[0] == '?')
            continue;
        print_message("%-12s %llu\n", ha_cmd_name(type), (unsigned long long)effects[type]);
        assert_true(effects[type] >= SEEDS / 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_logs_keep_the_rules),
    };

    return cmocka_run_group_tests_name("state: random logs", tests, NULL, NULL);
}
