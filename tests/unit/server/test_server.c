/* SPDX-License-Identifier: Apache-2.0
 *
 * What hactl, or anybody who can reach the socket, may send to hamgrd: exactly one answer each, no
 * harm, and each refusal says what is wrong and what helps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qb/qbipcs.h>

#include "tests/lib/server_rig.h"

static struct server_rig rig;
static struct rig_client *root;

/* The name service: may hang, so the server must not ask it while it serves. */
struct passwd *getpwuid(uid_t uid)
{
    fail_msg("getpwuid(%u)", (unsigned)uid);
    return NULL;
}

struct group *getgrgid(gid_t gid)
{
    fail_msg("getgrgid(%u)", (unsigned)gid);
    return NULL;
}

int getgrouplist(const char *user, gid_t group, gid_t *groups, int *count)
{
    (void)group;
    (void)groups;
    (void)count;
    fail_msg("getgrouplist(%s)", user);
    return -1;
}

static int setup(void **state)
{
    (void)state;
    rig_open(&rig, (gid_t)-1);
    root = rig_connect(0, 0, 1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_disconnect(root);
    rig_close(&rig);
    return 0;
}

/* Refused with that code; cause and fix are sentences, the cause has `words`; nothing was done. */
static void assert_refused(struct rig_client *client, const void *json, size_t size,
                           const char *code, const char *words)
{
    uint64_t applied = rig.b->state.applied;

    rig_send(client, json, size);
    const char *text = rig_answer(client);
    assert_non_null(text);
    json_t *answer = json_loads(text, 0, NULL);
    assert_non_null(answer);
    assert_string_equal(rig_error(answer, "code"), code);
    if (!strstr(rig_error(answer, "message"), words))
        fail_msg("\"%s\" does not say \"%s\"", rig_error(answer, "message"), words);
    assert_true(strlen(rig_error(answer, "message")) > 10);
    assert_true(strlen(rig_error(answer, "fix")) > 10);
    assert_true(json_is_null(json_object_get(answer, "data")));
    assert_int_equal(rig.b->state.applied, applied);
    json_decref(answer);
}

static void refused(const char *json, const char *code, const char *words)
{
    assert_refused(root, json, strlen(json), code, words);
}

/* ---- what is no request at all */

static void what_is_no_json_is_refused_with_the_place(void **state)
{
    static const char nul[] = "{\"cmd\":\"status\"}\0{}";
    static const char inner[] = "{\"cmd\":\"sta\0tus\"}";

    (void)state;
    refused("", "usage", "no JSON");
    refused("{", "usage", "byte 1");
    refused("[]", "usage", "no JSON object");
    refused("\"status\"", "usage", "no JSON");
    refused("{\"cmd\":\"status\"} x", "usage", "byte");
    refused("{\"cmd\":\"status\",\"cmd\":\"arm\"}", "usage", "duplicate");
    refused("{\"cmd\":\"explain\",\"guest\":\"g1\",\"guest\":\"g2\"}", "usage", "duplicate");
    refused("{\"cmd\":\"guest-show\",\"guest\":\"\xff\xfe\"}", "usage", "byte");
    refused("{\"cmd\":\"guest-show\",\"guest\":\"\xc0\x80\"}", "usage", "byte");
    refused("{\"cmd\":\"guest-show\",\"guest\":\"\xed\xa0\x80\"}", "usage", "byte");
    refused("{\"cmd\":\"guest-show\",\"guest\":\"g\\u0000\"}", "usage", "NUL");
    refused("{\"cmd\":\"guest-show\",\"guest\":\"\\ud800\"}", "usage", "byte");
    refused("{\"cmd\":\"cancel\",\"op\":99999999999999999999}", "usage", "too big");
    refused("{\"cmd\":\"cancel\",\"op\":1e999}", "usage", "overflow");
    assert_refused(root, nul, sizeof(nul) - 1, "usage", "byte");
    assert_refused(root, inner, sizeof(inner) - 1, "usage", "byte");
}

/* As deep as the largest message allows: no stack ends there. */
static void a_deep_request_is_refused(void **state)
{
    char *text = malloc(REQUEST_MAX);

    (void)state;
    assert_non_null(text);
    memset(text, '[', REQUEST_MAX);
    assert_refused(root, text, REQUEST_MAX, "usage", "depth");
    for (size_t i = 0; i + 5 < REQUEST_MAX; i += 5)
        memcpy(text + i, "{\"a\":", 5);
    assert_refused(root, text, REQUEST_MAX, "usage", "depth");
    free(text);
}

static void a_message_without_a_request_is_ignored(void **state)
{
    struct qb_ipc_request_header next = {.id = REQUEST_ID_NEXT, .size = sizeof(next)};

    (void)state;
    rig_send_raw(root, "x", 1);              /* shorter than a header */
    rig_send_raw(root, &next, sizeof(next)); /* the next part of nothing */
    assert_null(rig_answer(root));
    json_t *answer = rig_ask(root, "{\"cmd\":\"status\"}");
    assert_string_equal(rig_error(answer, "code"), "");
    json_decref(answer);
}

/* ---- arguments */

static void wrong_types_and_ranges_are_refused(void **state)
{
    static const char *const cases[][3] = {
        {"{}", "usage", "does not know that command"},
        {"{\"cmd\":7}", "usage", "does not know that command"},
        {"{\"cmd\":\"reboot-everything\"}", "usage", "does not know that command"},
        {"{\"cmd\":\"status\",\"verbose\":1}", "usage", "\"verbose\" is no argument of status"},
        {"{\"cmd\":\"guest-show\"}", "not-found", "no guest (none given)"},
        {"{\"cmd\":\"guest-show\",\"guest\":7}", "not-found", "no guest (none given)"},
        {"{\"cmd\":\"guest-show\",\"guest\":[\"g1\"]}", "not-found", "no guest"},
        {"{\"cmd\":\"guest-show\",\"guest\":\"nobody\"}", "not-found", "no guest nobody"},
        {"{\"cmd\":\"events\",\"count\":0}", "usage", "1 to 1000"},
        {"{\"cmd\":\"events\",\"count\":\"10\"}", "usage", "1 to 1000"},
        {"{\"cmd\":\"events\",\"since\":-1}", "usage", "since"},
        {"{\"cmd\":\"events\",\"since\":1.5}", "usage", "since"},
        {"{\"cmd\":\"guest-set\",\"guest\":\"g1\",\"priority\":1001}", "usage", "0 to 1000"},
        {"{\"cmd\":\"guest-set\",\"guest\":\"g1\",\"priority\":-1}", "usage", "0 to 1000"},
        {"{\"cmd\":\"guest-set\",\"guest\":\"g1\",\"priority\":\"high\"}", "usage", "priority"},
        {"{\"cmd\":\"guest-set\",\"guest\":\"g1\",\"protected\":1}", "usage", "true or false"},
        {"{\"cmd\":\"guest-set\",\"guest\":\"g1\",\"affinity\":[]}", "usage", "placement rules"},
        {"{\"cmd\":\"maintenance\",\"node\":\"n1\"}", "usage", "true or false"},
        {"{\"cmd\":\"maintenance\",\"node\":\"n9\",\"on\":true}", "not-found", "no node n9"},
        {"{\"cmd\":\"fence\",\"node\":{}}", "not-found", "no node"},
        {"{\"cmd\":\"confirm-fenced\",\"node\":\"n1\",\"typed\":\"n2\"}", "usage", "typed"},
        {"{\"cmd\":\"confirm-fenced\",\"node\":\"n1\"}", "usage", "typed"},
        {"{\"cmd\":\"confirm-fenced\",\"node\":\"n1\",\"typed\":\"n1\"}", "refused", ""},
        {"{\"cmd\":\"cancel\",\"op\":9223372036854775807}", "not-found", "operation"},
        {"{\"cmd\":\"cancel\",\"op\":\"1\"}", "not-found", "operation"},
        {"{\"cmd\":\"migrate\",\"guest\":\"g1\",\"to\":\"n1\"}", "refused", ""},
        {"{\"cmd\":\"migrate\",\"guest\":\"g1\",\"to\":\"n2\",\"deadline_ms\":86400001}", "usage",
         "deadline_ms"},
        {"{\"cmd\":\"cluster-add-node\",\"node\":\"n9\",\"address\":\"host.name\",\"id\":9}",
         "usage", "numeric address"},
        {"{\"cmd\":\"cluster-add-node\",\"node\":\"n9\",\"address\":\"10.0.0.9\",\"id\":0}",
         "usage", "id above 0"},
        {"{\"cmd\":\"cluster-add-node\",\"node\":\"n9\",\"address\":\"10.0.0.9\",\"id\":"
         "4294967296}",
         "usage", "id above 0"},
        {"{\"cmd\":\"cluster-add-node\",\"node\":\"../n9\",\"address\":\"10.0.0.9\",\"id\":9}",
         "usage", "name"},
        {"{\"cmd\":\"leave\",\"node\":\"n1\"}", "refused", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        refused(cases[i][0], cases[i][1], cases[i][2]);
    assert_int_equal(rig.proposed_count, 0); /* refused early, nothing went to the log */
}

static json_t *guest(const char *name, const char *uuid, const char *definition, json_t *memory)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:o}", "cmd", "guest-add", "guest", name, "uuid", uuid,
                     "definition", definition, "memory_kib", memory);
}

static void refuse_guest(json_t *request, const char *words)
{
    char *text = json_dumps(request, 0);

    assert_non_null(text);
    refused(text, "usage", words);
    free(text);
    json_decref(request);
}

#define UUID "12345678-1234-1234-1234-123456789abc"

static void guests_out_of_bounds_are_refused(void **state)
{
    char name[HA_NAME_MAX + 1];
    char *definition = malloc(HA_DEFINITION_MAX + 2);

    (void)state;
    assert_non_null(definition);
    memset(name, 'a', HA_NAME_MAX);
    name[HA_NAME_MAX] = '\0';
    memset(definition, 'd', HA_DEFINITION_MAX + 1);
    definition[HA_DEFINITION_MAX + 1] = '\0';
    refuse_guest(guest(name, UUID, "x", json_integer(1)), "1 to 63");
    refuse_guest(guest("", UUID, "x", json_integer(1)), "1 to 63");
    refuse_guest(guest("a b", UUID, "x", json_integer(1)), "1 to 63");
    refuse_guest(guest("g9", "no uuid", "x", json_integer(1)), "uuid");
    refuse_guest(guest("g9", "00000000-0000-0000-0000-000000000000", "x", json_integer(1)), "uuid");
    refuse_guest(guest("g9", UUID, "", json_integer(1)), "empty");
    refuse_guest(guest("g9", UUID, definition, json_integer(1)), "64 KiB");
    refuse_guest(guest("g9", UUID, "x", json_integer(0)), "memory");
    refuse_guest(guest("g9", UUID, "x", json_integer(-1)), "memory");
    refuse_guest(guest("g9", UUID, "x", json_integer(INT64_MAX)), "memory");
    refuse_guest(guest("g9", UUID, "x", json_real(1.5)), "memory");
    refuse_guest(guest("g9", UUID, "x", json_null()), "memory");
    definition[HA_DEFINITION_MAX] = '\0'; /* the largest that is allowed */
    json_t *request = guest("g9", UUID, definition, json_integer(1024));
    char *text = json_dumps(request, 0);
    json_t *answer = rig_ask(root, text);
    assert_string_equal(rig_error(answer, "code"), "");
    assert_non_null(ha_state_guest_by_name(&rig.b->state, "g9"));
    json_decref(answer);
    json_decref(request);
    free(text);
    free(definition);
}

/* ---- who may */

static const char *const changing[] = {
    "guest-add",
    "guest-set",
    "guest-remove",
    "guest-start",
    "guest-stop",
    "migrate",
    "cancel",
    "failover",
    "fence",
    "maintenance",
    "confirm-fenced",
    "freeze",
    "unfreeze",
    "leave",
    "arm",
    "disarm",
    "node-shutdown",
    "cluster-add-node",
    "cluster-remove-node",
};

static void others_may_only_read(void **state)
{
    struct rig_client *other = rig_connect(1000, 1000, getpid());
    char json[128];

    (void)state;
    for (size_t i = 0; i < sizeof(changing) / sizeof(changing[0]); i++) {
        snprintf(json, sizeof(json), "{\"cmd\":\"%s\",\"guest\":\"g1\",\"node\":\"n1\"}",
                 changing[i]);
        assert_refused(other, json, strlen(json), "auth", "only root and the admin group");
    }
    assert_int_equal(rig.proposed_count, 0);
    json_t *answer = rig_ask(other, "{\"cmd\":\"status\"}");
    assert_string_equal(rig_error(answer, "code"), "");
    json_decref(answer);
    rig_disconnect(other);
}

/* ---- waiting */

static void every_fate_of_a_proposal_is_told(void **state)
{
    static const struct {
        int outcome;
        const char *code;
    } fates[] = {{HA_E_REFUSED, "refused"},
                 {HA_E_NO_QUORUM, "no-quorum"},
                 {HA_E_UNKNOWN, "outcome-unknown"},
                 {HA_E_LIMIT, "limit"}};

    (void)state;
    rig.is_held = true;
    for (size_t i = 0; i < sizeof(fates) / sizeof(fates[0]); i++) {
        const char json[] = "{\"cmd\":\"guest-stop\",\"guest\":\"g1\"}";
        rig_send(root, json, sizeof(json) - 1);
        assert_null(rig_answer(root));
        rig.outcome = fates[i].outcome;
        rig_release(&rig);
        json_t *answer = json_loads(rig_answer(root), 0, NULL);
        assert_string_equal(rig_error(answer, "code"), fates[i].code);
        assert_true(strlen(rig_error(answer, "fix")) > 10);
        json_decref(answer);
    }
}

static void a_proposal_that_is_never_decided_ends(void **state)
{
    const char json[] = "{\"cmd\":\"guest-stop\",\"guest\":\"g1\"}";

    (void)state;
    rig.is_held = true;
    rig_send(root, json, sizeof(json) - 1);
    rig_pass(29000);
    assert_null(rig_answer(root));
    rig_pass(2000);
    json_t *answer = json_loads(rig_answer(root), 0, NULL);
    assert_string_equal(rig_error(answer, "code"), "outcome-unknown");
    json_decref(answer);
    rig_release(&rig); /* late: nobody waits for it any more */
}

static void without_a_view_a_request_waits_a_little(void **state)
{
    const char json[] = "{\"cmd\":\"guest-stop\",\"guest\":\"g1\"}";

    (void)state;
    rig.rt.is_open = false;
    rig_send(root, json, sizeof(json) - 1);
    rig_pass(1000);
    assert_null(rig_answer(root));
    rig_pass(5000);
    json_t *answer = json_loads(rig_answer(root), 0, NULL);
    assert_string_equal(rig_error(answer, "code"), "no-quorum");
    json_decref(answer);
    rig_send(root, json, sizeof(json) - 1);
    rig.rt.is_open = true;
    rig_pass(1000);
    answer = json_loads(rig_answer(root), 0, NULL);
    assert_string_equal(rig_error(answer, "code"), "");
    json_decref(answer);
}

/* What a node's check found is told by show, and refuses a move there with the same words. */
static void what_a_node_lacks_is_told_and_refuses(void **state)
{
    const struct ha_bar bar = {
        .guest = build_uuid(1), .node = 3, .text = "no /srv/k there", .fix = "copy /srv/k to n3"};
    const char *text;
    size_t i;
    json_t *node;

    (void)state;
    rig.rt.bars = &bar;
    rig.rt.bar_count = 1;
    json_t *answer = rig_ask(root, "{\"cmd\":\"guest-show\",\"guest\":\"g1\"}");
    const json_t *data = json_object_get(answer, "data");
    assert_int_equal(json_array_size(json_object_get(data, "runs_on")), 3);
    json_array_foreach(json_object_get(data, "runs_on"), i, node)
    {
        assert_int_equal(json_is_true(json_object_get(node, "ok")), i != 2);
        text = json_string_value(json_object_get(node, "text"));
        assert_string_equal(text, i == 2 ? bar.text : "");
    }
    json_decref(answer);
    refused("{\"cmd\":\"migrate\",\"guest\":\"g1\",\"to\":\"n3\"}", "refused",
            "n3: no /srv/k there");
    answer = rig_ask(root, "{\"cmd\":\"migrate\",\"guest\":\"g1\"}"); /* there is another */
    assert_string_equal(json_string_value(json_object_get(json_object_get(answer, "data"), "to")),
                        "n2");
    json_decref(answer);
}

#define XEN_JSON "{\\\"c_info\\\":{\\\"type\\\":\\\"pv\\\"}}"
#define ADD_XEN                                                                                    \
    "{\"cmd\":\"guest-add\",\"guest\":\"x\",\"uuid\":\"00000000-0000-4000-8000-000000000099\","    \
    "\"memory_kib\":8192,\"definition\":\"" XEN_JSON "\""

static void find(uint32_t node, uint8_t node_state, const char *text, const char *fix)
{
    struct server_checked_node *n = &rig.checked.nodes[node - 1];

    rig.checked.count = 3;
    n->node = node;
    n->state = node_state;
    snprintf(n->text, sizeof(n->text), "%s", text);
    snprintf(n->fix, sizeof(n->fix), "%s", fix);
}

static void nobody_could_run_it(void)
{
    find(1, SERVER_CHECK_BARRED, "no /srv/k there", "copy /srv/k to n1");
    find(2, SERVER_CHECK_BARRED, "no bridge br9 there", "make the bridge br9 on n2");
    find(3, SERVER_CHECK_SILENT, "no answer within 8 s", "start hamgrd on n3");
}

/* A guest that no node could run is not taken to be started: it would be down, and nobody told. */
static void what_no_node_can_run_is_not_added(void **state)
{
    (void)state;
    nobody_could_run_it();
    json_t *answer = rig_ask(root, ADD_XEN "}");
    assert_string_equal(rig_error(answer, "code"), "refused");
    assert_string_equal(rig_error(answer, "message"),
                        "no node can run it now: n1: no /srv/k there; n2: no bridge br9 there; n3: "
                        "no answer within 8 s");
    assert_string_equal(rig_error(answer, "fix"),
                        "copy /srv/k to n1, or make the bridge br9 on n2; "
                        "--stopped adds it without a start");
    json_decref(answer);
    assert_int_equal(rig.proposed_count, 0);
    assert_true(ha_uuid_is_zero(rig.checked_guest));
    answer = rig_ask(root, ADD_XEN ",\"stopped\":true}");
    assert_string_equal(rig_error(answer, "code"), "");
    json_decref(answer);
    assert_int_equal(rig.check_count, 1); /* nobody was asked again */
}

/* One that can, or that could not look, is enough. */
static void what_one_node_can_run_is_added(void **state)
{
    (void)state;
    nobody_could_run_it();
    find(3, SERVER_CHECK_UNKNOWN, "it could not look: hamgr-hv does not answer", "look there");
    json_t *answer = rig_ask(root, ADD_XEN "}");
    assert_string_equal(rig_error(answer, "code"), "");
    json_decref(answer);
    assert_int_equal(rig.proposed_count, 1);
    assert_int_equal(rig.last.type, HA_CMD_GUEST_ADD);
    refused(ADD_XEN "}", "refused", "exists"); /* before anybody is asked */
    assert_int_equal(rig.check_count, 1);
}

static void what_no_node_can_run_is_not_started(void **state)
{
    (void)state;
    rig.definition = "\n{\"c_info\":{}}";
    nobody_could_run_it();
    refused("{\"cmd\":\"guest-start\",\"guest\":\"g3\"}", "refused", "n1: no /srv/k there");
    assert_true(ha_uuid_equal(rig.checked_guest, build_uuid(3)));
    json_t *answer = rig_ask(root, "{\"cmd\":\"guest-start\",\"guest\":\"g1\"}"); /* it runs */
    assert_string_equal(rig_error(answer, "code"), "");
    json_decref(answer);
    find(2, SERVER_CHECK_ABLE, "", "");
    answer = rig_ask(root, "{\"cmd\":\"guest-start\",\"guest\":\"g3\"}");
    assert_string_equal(rig_error(answer, "code"), "");
    json_decref(answer);
    assert_int_equal(rig.check_count, 2);
}

static void a_check_tells_of_each_node(void **state)
{
    static const char *const words[] = {"barred", "barred", "silent"};
    const json_t *node;
    size_t i;

    (void)state;
    nobody_could_run_it();
    json_t *answer = rig_ask(root, "{\"cmd\":\"guest-check\",\"guest\":\"g3\"}");
    const json_t *nodes = json_object_get(json_object_get(answer, "data"), "nodes");
    assert_int_equal(json_array_size(nodes), 3);
    json_array_foreach(nodes, i, node)
    {
        assert_string_equal(json_string_value(json_object_get(node, "state")), words[i]);
        assert_true(json_string_value(json_object_get(node, "fix"))[0] != '\0');
    }
    json_decref(answer);
    refused("{\"cmd\":\"guest-check\",\"guest\":\"nobody\"}", "not-found", "nobody");
    refused("{\"cmd\":\"guest-check\",\"definition\":\"\"}", "usage", "empty");
}

/* A failover that could only end where it began is refused before the guest is stopped. */
static void a_failover_to_nowhere_is_refused(void **state)
{
    struct ha_bar bars[] = {
        {.guest = build_uuid(1), .node = 2, .text = "no /srv/k there", .fix = "copy /srv/k to n2"},
        {.guest = build_uuid(1), .node = 3, .text = "no /srv/k there", .fix = "copy /srv/k to n3"}};

    (void)state;
    rig.rt.bars = bars;
    rig.rt.bar_count = 2;
    refused("{\"cmd\":\"failover\",\"guest\":\"g1\"}", "refused",
            "no other node can run it: n2: no /srv/k there");
    bars[1].from = 1; /* against moves only: it can be started there */
    json_t *answer = rig_ask(root, "{\"cmd\":\"failover\",\"guest\":\"g1\"}");
    assert_string_equal(rig_error(answer, "code"), "");
    json_decref(answer);
}

static void doctor_tells_its_findings_of_the_nodes_asked_for(void **state)
{
    (void)state;
    json_t *answer = rig_ask(root, "{\"cmd\":\"doctor\"}");
    const json_t *data = json_object_get(answer, "data");
    assert_true(json_integer_value(json_object_get(data, "errors")) >= 3);
    assert_int_equal(json_array_size(json_object_get(data, "nodes")), 3);
    json_decref(answer);
    answer = rig_ask(root, "{\"cmd\":\"doctor\",\"node\":\"n2\"}");
    data = json_object_get(answer, "data");
    assert_int_equal(json_integer_value(json_object_get(data, "errors")), 1);
    assert_int_equal(json_array_size(json_object_get(data, "nodes")), 1);
    json_decref(answer);
    refused("{\"cmd\":\"doctor\",\"node\":\"n9\"}", "not-found", "no node n9");
    refused("{\"cmd\":\"doctor\",\"node\":7}", "not-found", "no node");
}

/* A hamgrd that has just started must not say that a guest does not exist. */
static void without_a_view_nothing_is_said_to_be_missing(void **state)
{
    const char json[] = "{\"cmd\":\"guest-show\",\"guest\":\"nobody\"}";

    (void)state;
    rig.rt.is_open = false;
    rig_send(root, json, sizeof(json) - 1);
    json_t *answer = json_loads(rig_answer(root), 0, NULL);
    assert_string_equal(rig_error(answer, "code"), "no-quorum");
    assert_non_null(strstr(rig_error(answer, "message"), "no guest nobody is known here"));
    json_decref(answer);
    rig.rt.is_open = true;
}

/* A script that asks and goes, again and again: the 65th that waits is refused, the others end. */
static void clients_that_leave_take_nothing_along(void **state)
{
    const char json[] = "{\"cmd\":\"guest-stop\",\"guest\":\"g1\"}";
    struct rig_client *clients[70];

    (void)state;
    rig.is_held = true;
    for (unsigned i = 0; i < 70; i++) {
        clients[i] = rig_connect(0, 0, 1);
        rig_send(clients[i], json, sizeof(json) - 1);
        assert_int_equal(rig_answer(clients[i]) != NULL, i >= 64);
    }
    assert_refused(clients[69], json, sizeof(json) - 1, "limit", "too many requests");
    for (unsigned i = 0; i < 70; i++)
        rig_disconnect(clients[i]);
    rig.outcome = 0;
    rig_release(&rig);
    json_t *answer = rig_ask(root, "{\"cmd\":\"status\"}");
    assert_string_equal(rig_error(answer, "code"), "");
    json_decref(answer);
}

/* ---- answers */

static void a_long_answer_comes_in_parts(void **state)
{
    (void)state;
    json_t *answer = rig_ask(root, "{\"cmd\":\"events\",\"count\":1000}");
    json_t *events = json_object_get(json_object_get(answer, "data"), "events");
    assert_int_equal(json_array_size(events), 1000);
    assert_true(strlen(rig_answer(root)) > REQUEST_PART);
    json_decref(answer);
}

/* Text of agents and guests is anything; an answer must be made all the same. */
static void texts_that_are_no_utf8_are_shown(void **state)
{
    (void)state;
    snprintf(rig.rt.gate_text, sizeof(rig.rt.gate_text), "caf\xe9 \xff");
    snprintf(rig.rt.alarm, sizeof(rig.rt.alarm), "\xc3");
    json_t *answer = rig_ask(root, "{\"cmd\":\"status\"}");
    json_t *here = json_object_get(json_object_get(answer, "data"), "here");
    assert_string_equal(json_string_value(json_object_get(here, "gate_text")), "caf? ?");
    json_decref(answer);
    answer = rig_ask(root, "{\"cmd\":\"guest-show\",\"guest\":\"g1\"}");
    assert_true(json_is_null(json_object_get(json_object_get(answer, "data"), "definition")));
    json_decref(answer);
}

static json_t *only_move(json_t *answer)
{
    json_t *moves = json_object_get(json_object_get(answer, "data"), "moves");

    assert_int_equal(json_array_size(moves), 1);
    return json_array_get(moves, 0);
}

static void a_move_tells_how_it_is_packed(void **state)
{
    (void)state;
    assert_int_equal(build_migrate(rig.b, 1, 2), 0);
    json_t *answer = rig_ask(root, "{\"cmd\":\"status\"}");
    assert_true(json_is_null(json_object_get(only_move(answer), "level")));
    json_decref(answer);
    rig.rt.move_count = 1;
    rig.rt.moves[0] = (struct ha_move_progress){
        .ticket = build_guest_of(rig.b, 1)->ticket.id,
        .step = HA_MOVE_COPYING,
        .packing = {.is_known = true, .level = -3, .codec_mbit = 3200, .link_mbit = 940}};
    answer = rig_ask(root, "{\"cmd\":\"status\"}");
    json_t *move = only_move(answer);
    assert_int_equal(json_integer_value(json_object_get(move, "level")), -3);
    assert_int_equal(json_integer_value(json_object_get(move, "codec_mbit")), 3200);
    assert_int_equal(json_integer_value(json_object_get(move, "link_mbit")), 940);
    json_decref(answer);
}

/* ---- forecasts */

static void a_forecast_says_what_it_rests_on(void **state)
{
    static const char ask[] = "{\"cmd\":\"forecast\",\"guest\":\"g1\",\"to\":\"n3\"}";
    const char *to, *from, *reason;
    int is_measured, pause_ms;

    (void)state;
    refused(ask, "refused", "nothing is known of it");
    rig.forecast.is_ok = true;
    rig.forecast.rate_from = PRECOPY_FROM_OTHERS;
    rig.forecast.link_text = "n3 does not answer";
    rig.forecast.f.pause_ms = 250;
    json_t *answer = rig_ask(root, ask);
    assert_string_equal(rig_error(answer, "code"), "");
    assert_int_equal(json_unpack(answer, "{s:{s:s, s:s, s:{s:b, s:s}, s:{s:i}}}", "data", "to", &to,
                                 "rate_from", &from, "link", "measured", &is_measured, "reason",
                                 &reason, "pause_ms", "expected", &pause_ms),
                     0);
    assert_string_equal(to, "n3");
    assert_string_equal(from, "others");
    assert_false(is_measured);
    assert_string_equal(reason, "n3 does not answer");
    assert_int_equal(pause_ms, 250);
    json_decref(answer);
    assert_int_equal(rig.proposed_count, 0); /* nothing moves */
}

#define HOSTILE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        HOSTILE(what_a_node_lacks_is_told_and_refuses),
        HOSTILE(what_no_node_can_run_is_not_added),
        HOSTILE(what_one_node_can_run_is_added),
        HOSTILE(what_no_node_can_run_is_not_started),
        HOSTILE(a_check_tells_of_each_node),
        HOSTILE(a_failover_to_nowhere_is_refused),
        HOSTILE(doctor_tells_its_findings_of_the_nodes_asked_for),
        HOSTILE(what_is_no_json_is_refused_with_the_place),
        HOSTILE(a_deep_request_is_refused),
        HOSTILE(a_message_without_a_request_is_ignored),
        HOSTILE(wrong_types_and_ranges_are_refused),
        HOSTILE(guests_out_of_bounds_are_refused),
        HOSTILE(others_may_only_read),
        HOSTILE(every_fate_of_a_proposal_is_told),
        HOSTILE(a_proposal_that_is_never_decided_ends),
        HOSTILE(without_a_view_a_request_waits_a_little),
        HOSTILE(without_a_view_nothing_is_said_to_be_missing),
        HOSTILE(clients_that_leave_take_nothing_along),
        HOSTILE(a_long_answer_comes_in_parts),
        HOSTILE(texts_that_are_no_utf8_are_shown),
        HOSTILE(a_move_tells_how_it_is_packed),
        HOSTILE(a_forecast_says_what_it_rests_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
