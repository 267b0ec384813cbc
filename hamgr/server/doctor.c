/* SPDX-License-Identifier: Apache-2.0
 *
 * The verb behind `hactl doctor`: facts of all nodes are asked for, judged by the pure diagnosis,
 * and told as JSON with the facts beside the findings.
 */
#include <stdlib.h>
#include <string.h>

#include "hamgr/base/assert.h"
#include "hamgr/server/request.h"

static json_t *facts_json(const struct ha_facts *facts)
{
    json_t *json = json_object(), *items = json_array();

    for (uint16_t i = 0; i < HA_FACT_NUMBERS_MAX; i++) {
        const char *name = facts->is_known[i] ? ha_fact_number_name(i) : NULL;
        if (name)
            json_object_set_new(json, name, json_integer((json_int_t)facts->number[i]));
    }
    for (uint16_t i = 0; i < HA_FACT_TEXTS_MAX; i++) {
        const char *name = facts->text[i][0] ? ha_fact_text_name(i) : NULL;
        if (name)
            json_object_set_new(json, name, request_string(facts->text[i]));
    }
    for (uint32_t i = 0; i < facts->item_count; i++) {
        const struct ha_fact_item *item = &facts->items[i];
        json_array_append_new(
            items, json_pack("{s:s, s:o, s:I, s:o}", "list", ha_fact_list_name(item->list),
                             "subject", request_string(item->subject), "value",
                             (json_int_t)item->value, "text", request_string(item->text)));
    }
    json_object_set_new(json, "items", items);
    return json;
}

static const char *name_of(const struct ha_doctor_input *in, uint32_t node)
{
    for (uint32_t i = 0; i < in->node_count; i++) {
        if (in->nodes[i].id == node)
            return in->nodes[i].name;
    }
    return "";
}

static json_t *finding_json(const struct ha_doctor_input *in, const struct ha_finding *f)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:s, s:o}", "severity",
                     ha_severity_name(f->severity), "code", ha_finding_name(f->code), "node",
                     name_of(in, f->node), "guest", f->guest, "what", request_string(f->what),
                     "why", ha_finding_why(f->code), "fix", request_string(f->fix));
}

static json_t *nodes_json(const struct ha_doctor_input *in, const char *only)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < in->node_count; i++) {
        const struct ha_doctor_node *node = &in->nodes[i];
        if (only[0] && strcmp(only, node->name) != 0)
            continue;
        json_array_append_new(list, json_pack("{s:s, s:b, s:o, s:o}", "name", node->name,
                                              "answered", node->facts != NULL, "silence",
                                              request_string(node->silence), "facts",
                                              node->facts ? facts_json(node->facts) : json_null()));
    }
    return list;
}

static void on_facts(void *user, const struct ha_doctor_input *in)
{
    static struct ha_diagnosis diagnosis; /* 400 KiB: the loop's thread only */
    struct request *r = request_find((uint64_t)(uintptr_t)user);
    uint64_t counts[HA_SEVERITY_ERROR + 1] = {0};
    json_t *findings = json_array();

    if (!r) {
        json_decref(findings);
        return;
    }
    const char *only = request_kept(r);
    ha_doctor(in, &diagnosis);
    for (uint32_t i = 0; i < diagnosis.count; i++) {
        const struct ha_finding *f = &diagnosis.list[i];
        if (only[0] && f->node != 0 && strcmp(only, name_of(in, f->node)) != 0)
            continue;
        counts[f->severity]++;
        json_array_append_new(findings, finding_json(in, f));
    }
    request_reply(r, json_pack("{s:I, s:I, s:I, s:b, s:o, s:o}", "errors",
                               (json_int_t)counts[HA_SEVERITY_ERROR], "warnings",
                               (json_int_t)counts[HA_SEVERITY_WARNING], "notes",
                               (json_int_t)counts[HA_SEVERITY_NOTE], "cut", diagnosis.is_cut,
                               "findings", findings, "nodes", nodes_json(in, only)));
}

static void run_doctor(struct request *r)
{
    const struct server_api *api = request_api(r);
    const struct ha_node *node = NULL;

    if (json_object_get(request_args(r), "node")) {
        node = request_node(r, "node");
        if (!node)
            return;
    }
    char *only = request_keep(r, HA_NAME_MAX);
    if (node)
        memcpy(only, node->name, HA_NAME_MAX);
    uint64_t number = request_wait(r);
    api->doctor(api->user, on_facts, (void *)(uintptr_t)number);
}

static const char *const doctor_keys[] = {"node", NULL};

const struct verb doctor_verbs[] = {
    {"doctor", false, run_doctor, doctor_keys},
    {NULL, false, NULL, NULL},
};
