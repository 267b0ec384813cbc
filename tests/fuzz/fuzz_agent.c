/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: what a fence agent may print. The first bytes make a device with secrets, the rest
 * is its output, in which those secrets are planted: what is left for logs and operators never
 * holds one, is one line of text, and no longer than before.
 */
#include "tests/fuzz/fuzz.h"

#include "fence/agent.h"
#include "fence/devices.h"

#define SECRETS 3u

static const char *const names[SECRETS] = {"password", "snmp_community", "session_token"};

/* Letters only: a secret of stars is what the stars leave behind. */
static void make_secret(struct fuzz_input *in, char *ret_value)
{
    size_t length = 4 + fuzz_u8(in) % 16u;

    for (size_t i = 0; i < length; i++)
        ret_value[i] = (char)('a' + fuzz_u8(in) % 3u);
    ret_value[length] = '\0';
}

static size_t append(char *output, size_t used, const void *bytes, size_t size)
{
    if (size > AGENT_OUTPUT_MAX - 1 - used)
        size = AGENT_OUTPUT_MAX - 1 - used;
    memcpy(output + used, bytes, size);
    return used + size;
}

/* As agent.c leaves it: cut after its first bytes, wherever that is. */
static size_t make_output(struct fuzz_input *in, const struct device *device, char *output)
{
    size_t used = 0;

    while (in->size > 0 && used < AGENT_OUTPUT_MAX - 1) {
        uint8_t what = fuzz_u8(in);
        size_t size = fuzz_u8(in);
        const uint8_t *bytes = what & 1u ? fuzz_bytes(in, &size) : NULL;
        const char *secret = device->options[what % SECRETS].value;
        used = bytes ? append(output, used, bytes, size)
                     : append(output, used, secret, strlen(secret));
    }
    output[used] = '\0';
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    static struct device device;
    char output[AGENT_OUTPUT_MAX];

    memset(&device, 0, sizeof(device));
    device.option_count = SECRETS;
    for (uint32_t i = 0; i < SECRETS; i++) {
        snprintf(device.options[i].key, sizeof(device.options[i].key), "%s", names[i]);
        make_secret(&in, device.options[i].value);
    }
    make_output(&in, &device, output);
    char *text = fuzz_text((const uint8_t *)output, strlen(output));
    size_t before = strlen(text);
    devices_redact(&device, text);
    REQUIRE(strlen(text) <= before);
    for (uint32_t i = 0; i < SECRETS; i++)
        REQUIRE(strstr(text, device.options[i].value) == NULL);
    free(text);
    return 0;
}
