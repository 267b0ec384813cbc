/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: what the peer's certificate may hold (its names and usages are ours to read).
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>

#include "migrate/pem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const unsigned char *at = data;
    char name[HA_NAME_MAX];

    X509 *cert = d2i_X509(NULL, &at, size > INT32_MAX ? INT32_MAX : (long)size);
    if (cert) {
        pem_first_name(cert, name);
        if (memchr(name, 0, sizeof(name)) == NULL)
            abort();
        (void)pem_has_name(cert, "n1");
        (void)pem_has_usages(cert);
    }
    X509_free(cert);
    ERR_clear_error();
    return 0;
}
