/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: operators' requests. The input is a script of requests to one server: raw bytes, or
 * JSON made of the verbs' own arguments with the fuzzer's values. Each gets exactly one answer,
 * with a cause and a fix if it was refused; who may not change anything changes nothing; and what
 * is proposed can be encoded and applied, and leaves a sound state.
 */
#include "tests/fuzz/fuzz.h"

#include "tests/fuzz/state_oath.h"
#include "tests/lib/server_rig.h"

#define REQUESTS_MAX 12u

static const char *const keys[] = {
    "guest",
    "node",
    "to",
    "op",
    "uuid",
    "definition",
    "memory_kib",
    "stopped",
    "priority",
    "start_order",
    "restart_max",
    "restart_window_s",
    "stop_timeout_ms",
    "max_downtime_ms",
    "protected",
    "deadline_ms",
    "typed",
    "on",
    "address",
    "id",
    "witness",
    "since",
    "count",
    "affinity",
    "x",
};

static const char *const words[] = {
    "g1",
    "g2",
    "g3",
    "n1",
    "n2",
    "n3",
    "n4",
    "",
    "10.0.0.9",
    "::1",
    "g9",
    "12345678-1234-1234-1234-123456789abc",
    "10000000-0000-0000-0000-000000000001",
    "memory = 1",
};

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const char *verb_name(uint8_t number)
{
    unsigned shown = 0, changing = 0;

    while (show_verbs[shown].name)
        shown++;
    while (change_verbs[changing].name)
        changing++;
    number = (uint8_t)(number % (shown + changing));
    return number < shown ? show_verbs[number].name : change_verbs[number - shown].name;
}

static json_t *value(struct fuzz_input *in)
{
    static const json_int_t numbers[] = {0, 1, -1, 1000, 1001, 1 << 20, INT64_MAX, INT64_MIN};
    uint8_t kind = fuzz_u8(in), size = fuzz_u8(in);
    size_t length = size;
    const uint8_t *bytes;
    json_t *text;

    switch (kind % 8u) {
    case 0:
        return json_boolean(size & 1u);
    case 1:
        return json_integer(numbers[size % COUNT(numbers)]);
    case 2:
        return json_integer(size);
    case 3:
        bytes = fuzz_bytes(in, &length);
        text = json_stringn((const char *)bytes, length); /* NULL if it is no UTF-8 */
        return text ? text : json_null();
    case 4:
        return json_pack("[s]", "g1");
    default:
        return json_string(words[size % COUNT(words)]);
    }
}

/* A request that has a chance: a verb and some of the keys that any verb knows. */
static void ask_built(struct rig_client *client, struct fuzz_input *in)
{
    json_t *request = json_object();
    uint8_t count = fuzz_u8(in) % 8u;

    json_object_set_new(request, "cmd", json_string(verb_name(fuzz_u8(in))));
    for (uint8_t i = 0; i < count; i++)
        json_object_set_new(request, keys[fuzz_u8(in) % COUNT(keys)], value(in));
    char *text = json_dumps(request, 0);
    REQUIRE(text);
    rig_send(client, text, strlen(text));
    free(text);
    json_decref(request);
}

static void ask_raw(struct rig_client *client, struct fuzz_input *in)
{
    size_t size = fuzz_u16(in) % 2048u;
    const uint8_t *bytes = fuzz_bytes(in, &size);

    rig_send(client, bytes, size);
}

static bool is_error_whole(const json_t *error)
{
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *message = json_string_value(json_object_get(error, "message"));
    const char *fix = json_string_value(json_object_get(error, "fix"));

    return code && *code && message && strlen(message) > 5 && fix && strlen(fix) > 3;
}

/* True if it was granted. */
static bool check_answer(struct rig_client *client)
{
    const char *text = rig_answer(client);

    REQUIRE(text);
    json_t *answer = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    REQUIRE(json_is_object(answer));
    const json_t *errors = json_object_get(answer, "errors");
    size_t count = json_array_size(errors);
    REQUIRE(json_is_array(errors) && count <= 1);
    REQUIRE(json_string_value(json_object_get(answer, "schema")) != NULL);
    REQUIRE(count == 0 || is_error_whole(json_array_get(errors, 0)));
    REQUIRE(json_is_null(json_object_get(answer, "data")) == (count == 1));
    json_decref(answer);
    return count == 0;
}

static void one_request(struct server_rig *r, struct rig_client *client, bool is_admin,
                        struct fuzz_input *in)
{
    uint64_t applied = r->b->state.applied;

    if (fuzz_u8(in) % 4u == 0)
        ask_raw(client, in);
    else
        ask_built(client, in);
    rig_pass(31000); /* waits end by themselves */
    bool is_granted = check_answer(client);
    REQUIRE(is_admin || r->b->state.applied == applied);
    if (is_granted && r->b->state.applied != applied) {
        const char *broken = oath_state(&r->b->state);
        if (broken)
            fprintf(stderr, "the state's oath: %s\n", broken);
        REQUIRE(!broken && ha_state_violation(&r->b->state) == NULL);
    }
}

/* What forecasts find: any numbers, also ones that no move could have. */
static void make_forecast(struct server_forecast *forecast, uint8_t flags)
{
    uint64_t number = flags & 16u ? UINT64_MAX : flags;

    forecast->is_ok = (flags & 8u) != 0;
    forecast->rate_from = flags >> 5;
    forecast->dirty_bytes_s = forecast->rate_bytes_s = number;
    forecast->link_bytes_s = flags & 32u ? number : 0;
    forecast->link_text = flags & 64u ? "\xff no text" : "not measured";
    forecast->f.pause_ms = forecast->f.time_ms = forecast->f.bytes = number;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    static struct server_rig rig;
    uint8_t flags = fuzz_u8(&in);

    rig_open(&rig, (gid_t)-1);
    rig.rt.is_open = (flags & 2u) == 0;
    make_forecast(&rig.forecast, flags);
    rig.outcome = flags & 4u ? HA_E_UNKNOWN : 0;
    struct rig_client *client = rig_connect(flags & 1u ? 1000 : 0, 1000, 0);
    for (unsigned i = 0; i < REQUESTS_MAX && in.size > 0; i++)
        one_request(&rig, client, (flags & 1u) == 0, &in);
    rig_disconnect(client);
    rig_close(&rig);
    return 0;
}
