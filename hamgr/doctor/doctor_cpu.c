/* SPDX-License-Identifier: Apache-2.0
 *
 * Can guests move between the nodes' processors? Xen gives a guest the features of the host it
 * started on, as words of a feature set; where one of its bits is missing it can't go on. The
 * advice is what to hide on the host that has more (Xen's command line: cpuid=no-NAME).
 */
#include <stdio.h>
#include <string.h>

#include "hamgr/doctor/doctor_internal.h"

#define WORDS_MAX 32u

/* Names as Xen's command line takes them, of bits in which hosts of one age differ from the next.
 * What is not here is told as word.bit. */
static const struct {
    uint8_t word, bit;
    const char *name;
} features[] = {
    {1, 0, "sse3"},          {1, 1, "pclmulqdq"},    {1, 9, "ssse3"},       {1, 12, "fma"},
    {1, 13, "cx16"},         {1, 17, "pcid"},        {1, 19, "sse4.1"},     {1, 20, "sse4.2"},
    {1, 21, "x2apic"},       {1, 22, "movbe"},       {1, 23, "popcnt"},     {1, 25, "aesni"},
    {1, 26, "xsave"},        {1, 28, "avx"},         {1, 29, "f16c"},       {1, 30, "rdrand"},
    {2, 26, "page1gb"},      {2, 27, "rdtscp"},      {3, 5, "lzcnt"},       {3, 6, "sse4a"},
    {3, 8, "3dnowprefetch"}, {3, 11, "xop"},         {3, 16, "fma4"},       {3, 21, "tbm"},
    {4, 0, "xsaveopt"},      {4, 1, "xsavec"},       {4, 2, "xgetbv1"},     {4, 3, "xsaves"},
    {5, 0, "fsgsbase"},      {5, 3, "bmi1"},         {5, 4, "hle"},         {5, 5, "avx2"},
    {5, 7, "smep"},          {5, 8, "bmi2"},         {5, 9, "erms"},        {5, 10, "invpcid"},
    {5, 11, "rtm"},          {5, 14, "mpx"},         {5, 16, "avx512f"},    {5, 17, "avx512dq"},
    {5, 18, "rdseed"},       {5, 19, "adx"},         {5, 20, "smap"},       {5, 21, "avx512-ifma"},
    {5, 23, "clflushopt"},   {5, 24, "clwb"},        {5, 28, "avx512cd"},   {5, 29, "sha"},
    {5, 30, "avx512bw"},     {5, 31, "avx512vl"},    {6, 1, "avx512-vbmi"}, {6, 3, "pku"},
    {6, 8, "gfni"},          {6, 9, "vaes"},         {6, 10, "vpclmulqdq"}, {6, 22, "rdpid"},
    {8, 0, "clzero"},        {8, 12, "ibpb"},        {9, 14, "serialize"},  {9, 26, "ibrsb"},
    {9, 27, "stibp"},        {9, 28, "l1d-flush"},   {9, 29, "arch-caps"},  {9, 31, "ssbd"},
    {10, 4, "avx-vnni"},     {10, 5, "avx512-bf16"},
};

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "178bfbff:f6f83203:..." into words; their count, 0 if it is none. */
static uint32_t parse(const char *text, uint32_t words[WORDS_MAX])
{
    uint32_t count = 0;

    memset(words, 0, WORDS_MAX * sizeof(words[0]));
    while (*text && count < WORDS_MAX) {
        for (; digit_of(*text) >= 0; text++)
            words[count] = words[count] << 4 | (uint32_t)digit_of(*text);
        count++;
        if (*text == ':')
            text++;
        else if (*text != '\0')
            return 0;
    }
    return count;
}

static void name_feature(uint32_t word, uint32_t bit, char *ret_name, size_t capacity)
{
    for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        if (features[i].word == word && features[i].bit == bit) {
            snprintf(ret_name, capacity, "%s", features[i].name);
            return;
        }
    }
    snprintf(ret_name, capacity, "%u.%u", (unsigned)word, (unsigned)bit);
}

static void append(char *list, size_t capacity, const char *name)
{
    size_t used = strlen(list);

    if (used + strlen(name) + 2 < capacity)
        snprintf(list + used, capacity - used, "%s%s", used ? "," : "", name);
}

bool ha_cpu_may_move(const char *from, const char *to, char *ret_missing, size_t capacity)
{
    uint32_t have[WORDS_MAX], offered[WORDS_MAX];
    char name[24];
    bool may_move = true;

    ret_missing[0] = '\0';
    if (parse(from, have) == 0 || parse(to, offered) == 0)
        return true;
    for (uint32_t word = 0; word < WORDS_MAX; word++) {
        for (uint32_t bit = 0; bit < 32; bit++) {
            if (((have[word] & ~offered[word]) >> bit & 1u) == 0)
                continue;
            may_move = false;
            name_feature(word, bit, name, sizeof(name));
            append(ret_missing, capacity, name);
        }
    }
    return may_move;
}

static const char *set_of(const struct ha_doctor_node *node, enum ha_fact_text set)
{
    return node->facts ? node->facts->text[set] : "";
}

/* Of a guest that comes from elsewhere: more than the host gives its own, if that is known. */
static const char *most_of(const struct ha_doctor_node *node, enum ha_fact_text set)
{
    const char *most =
        set_of(node, set == HA_TEXT_CPU_PV ? HA_TEXT_CPU_PV_MAX : HA_TEXT_CPU_HVM_MAX);

    return most[0] ? most : set_of(node, set);
}

/* One set of the two; false: nothing to say. */
static bool judge_pair(struct doctor *d, const struct ha_doctor_node *from,
                       const struct ha_doctor_node *to, enum ha_fact_text set)
{
    char missing[96];

    if (ha_cpu_may_move(set_of(from, set), most_of(to, set), missing, sizeof(missing)))
        return false;
    struct ha_finding *f = doctor_find(d, HA_FINDING_CPU_DIFFERS, HA_SEVERITY_WARNING, from->id);
    snprintf(f->what, sizeof(f->what), "%s: guests started here can't move to %s, which lacks %s",
             from->name, to->name, missing);
    snprintf(f->fix, sizeof(f->fix),
             "level them: on %.40s hide these on Xen's command line (cpuid=no-NAME,...), reboot",
             from->name);
    return true;
}

static void judge_unknown(struct doctor *d, const struct ha_doctor_node *node)
{
    bool is_xen = node->facts && ha_facts_is(node->facts, HA_FACT_IS_XEN) &&
                  !ha_facts_is(node->facts, HA_FACT_IS_WITNESS);

    if (!is_xen || set_of(node, HA_TEXT_CPU_HVM)[0] || set_of(node, HA_TEXT_CPU_PV)[0])
        return;
    struct ha_finding *f = doctor_find(d, HA_FINDING_CPU_UNKNOWN, HA_SEVERITY_NOTE, node->id);
    snprintf(f->what, sizeof(f->what), "%s: what its processor offers guests is not known",
             node->name);
    snprintf(f->fix, sizeof(f->fix), "on %s: xen-cpuid -p; compare it with the other nodes'",
             node->name);
}

static uint64_t version_of(const struct ha_doctor_node *node)
{
    return node->facts ? node->facts->number[HA_FACT_XEN_VERSION] : 0;
}

static void judge_versions(struct doctor *d, const struct ha_doctor_node *node,
                           const struct ha_doctor_node *first)
{
    uint64_t own = version_of(node), other = version_of(first);

    if (own == 0 || other == 0 || own == other)
        return;
    struct ha_finding *f = doctor_find(d, HA_FINDING_XENS_DIFFER, HA_SEVERITY_WARNING, node->id);
    snprintf(f->what, sizeof(f->what), "%s runs Xen %u.%u, %s runs %u.%u", node->name,
             (unsigned)(own >> 16), (unsigned)(own & 0xffff), first->name, (unsigned)(other >> 16),
             (unsigned)(other & 0xffff));
    snprintf(f->fix, sizeof(f->fix),
             "upgrade the older one; until then move guests away from it "
             "only");
}

void doctor_cpus(struct doctor *d)
{
    const struct ha_doctor_input *in = d->in;

    for (uint32_t a = 0; a < in->node_count; a++) {
        judge_unknown(d, &in->nodes[a]);
        if (a > 0)
            judge_versions(d, &in->nodes[a], &in->nodes[0]);
        for (uint32_t b = 0; b < in->node_count; b++) {
            if (a != b && !judge_pair(d, &in->nodes[a], &in->nodes[b], HA_TEXT_CPU_HVM))
                judge_pair(d, &in->nodes[a], &in->nodes[b], HA_TEXT_CPU_PV);
        }
    }
}
