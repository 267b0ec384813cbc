/* SPDX-License-Identifier: Apache-2.0
 *
 * Facts as data: setting, merging, and their encoding, where each carries its own number.
 */
#include "hamgr/doctor/facts.h"

#include <stdio.h>
#include <string.h>

/* A list's length that can't be meant: more than any build would write. */
#define COUNT_MAX 4096u

#define X(symbol, number, name)                                                                    \
    _Static_assert((number) < HA_FACT_NUMBERS_MAX, "the number of " name " has its place");
HA_FACT_NUMBERS(X)
#undef X
#define X(symbol, number, name)                                                                    \
    _Static_assert((number) < HA_FACT_TEXTS_MAX, "the text " name " has its place");
HA_FACT_TEXTS(X)
#undef X

const char *ha_fact_number_name(uint16_t number)
{
    switch (number) {
#define X(symbol, fact, name)                                                                      \
    case fact:                                                                                     \
        return name;
        HA_FACT_NUMBERS(X)
#undef X
    default:
        return NULL;
    }
}

const char *ha_fact_text_name(uint16_t number)
{
    switch (number) {
#define X(symbol, fact, name)                                                                      \
    case fact:                                                                                     \
        return name;
        HA_FACT_TEXTS(X)
#undef X
    default:
        return NULL;
    }
}

const char *ha_fact_list_name(uint16_t number)
{
    switch (number) {
#define X(symbol, fact, name)                                                                      \
    case fact:                                                                                     \
        return name;
        HA_FACT_LISTS(X)
#undef X
    default:
        return NULL;
    }
}

void ha_facts_set(struct ha_facts *facts, enum ha_fact_number fact, uint64_t value)
{
    facts->is_known[fact] = true;
    facts->number[fact] = value;
}

void ha_facts_say(struct ha_facts *facts, enum ha_fact_text fact, const char *text)
{
    snprintf(facts->text[fact], sizeof(facts->text[fact]), "%s", text);
}

void ha_facts_add(struct ha_facts *facts, enum ha_fact_list list, const char *subject,
                  uint64_t value, const char *text)
{
    if (facts->item_count == HA_FACT_ITEMS_MAX) {
        facts->is_cut = true;
        return;
    }
    struct ha_fact_item *item = &facts->items[facts->item_count++];
    memset(item, 0, sizeof(*item));
    item->list = (uint16_t)list;
    item->value = value;
    snprintf(item->subject, sizeof(item->subject), "%s", subject);
    snprintf(item->text, sizeof(item->text), "%s", text);
}

bool ha_facts_is(const struct ha_facts *facts, enum ha_fact_number fact)
{
    return facts->is_known[fact] && facts->number[fact] != 0;
}

bool ha_facts_is_not(const struct ha_facts *facts, enum ha_fact_number fact)
{
    return facts->is_known[fact] && facts->number[fact] == 0;
}

void ha_facts_merge(struct ha_facts *facts, const struct ha_facts *from)
{
    for (uint16_t i = 0; i < HA_FACT_NUMBERS_MAX; i++) {
        if (from->is_known[i])
            ha_facts_set(facts, (enum ha_fact_number)i, from->number[i]);
    }
    for (uint16_t i = 0; i < HA_FACT_TEXTS_MAX; i++) {
        if (from->text[i][0] != '\0')
            memcpy(facts->text[i], from->text[i], sizeof(facts->text[i]));
    }
    for (uint32_t i = 0; i < from->item_count; i++) {
        const struct ha_fact_item *item = &from->items[i];
        ha_facts_add(facts, (enum ha_fact_list)item->list, item->subject, item->value, item->text);
    }
    facts->is_cut = facts->is_cut || from->is_cut;
}

static void put_numbers(struct ha_writer *w, const struct ha_facts *facts)
{
    uint16_t count = 0;

    for (uint16_t i = 0; i < HA_FACT_NUMBERS_MAX; i++)
        count = (uint16_t)(count + facts->is_known[i]);
    ha_put_u16(w, count);
    for (uint16_t i = 0; i < HA_FACT_NUMBERS_MAX; i++) {
        if (!facts->is_known[i])
            continue;
        ha_put_u16(w, i);
        ha_put_u64(w, facts->number[i]);
    }
}

static void put_texts(struct ha_writer *w, const struct ha_facts *facts)
{
    uint16_t count = 0;

    for (uint16_t i = 0; i < HA_FACT_TEXTS_MAX; i++)
        count = (uint16_t)(count + (facts->text[i][0] != '\0'));
    ha_put_u16(w, count);
    for (uint16_t i = 0; i < HA_FACT_TEXTS_MAX; i++) {
        if (facts->text[i][0] == '\0')
            continue;
        ha_put_u16(w, i);
        ha_put_text(w, facts->text[i]);
    }
}

void ha_facts_encode(struct ha_writer *w, const struct ha_facts *facts)
{
    put_numbers(w, facts);
    put_texts(w, facts);
    ha_put_u8(w, facts->is_cut);
    ha_put_u16(w, (uint16_t)facts->item_count);
    for (uint32_t i = 0; i < facts->item_count; i++) {
        ha_put_u16(w, facts->items[i].list);
        ha_put_u64(w, facts->items[i].value);
        ha_put_text(w, facts->items[i].subject);
        ha_put_text(w, facts->items[i].text);
    }
}

static void get_numbers(struct ha_reader *r, struct ha_facts *ret)
{
    uint16_t count = ha_get_u16(r);

    r->failed = r->failed || count > COUNT_MAX;
    for (uint16_t i = 0; i < count && !r->failed; i++) {
        uint16_t number = ha_get_u16(r);
        uint64_t value = ha_get_u64(r);
        if (ha_fact_number_name(number))
            ha_facts_set(ret, (enum ha_fact_number)number, value);
    }
}

static void get_texts(struct ha_reader *r, struct ha_facts *ret)
{
    char text[HA_FACT_TEXT_MAX];
    uint16_t count = ha_get_u16(r);

    r->failed = r->failed || count > COUNT_MAX;
    for (uint16_t i = 0; i < count && !r->failed; i++) {
        uint16_t number = ha_get_u16(r);
        ha_get_text(r, text, sizeof(text));
        if (!r->failed && ha_fact_text_name(number))
            ha_facts_say(ret, (enum ha_fact_text)number, text);
    }
}

void ha_facts_decode(struct ha_reader *r, struct ha_facts *ret)
{
    char subject[HA_FACT_SUBJECT_MAX], text[HA_FACT_TEXT_MAX];

    memset(ret, 0, sizeof(*ret));
    get_numbers(r, ret);
    get_texts(r, ret);
    ret->is_cut = ha_get_u8(r) != 0;
    uint16_t count = ha_get_u16(r);
    r->failed = r->failed || count > COUNT_MAX;
    for (uint16_t i = 0; i < count && !r->failed; i++) {
        uint16_t list = ha_get_u16(r);
        uint64_t value = ha_get_u64(r);
        ha_get_text(r, subject, sizeof(subject));
        ha_get_text(r, text, sizeof(text));
        if (!r->failed && ha_fact_list_name(list))
            ha_facts_add(ret, (enum ha_fact_list)list, subject, value, text);
    }
}
