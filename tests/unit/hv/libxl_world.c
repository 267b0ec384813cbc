/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/hv/libxl_world.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "hamgr/hv/xen/helper/helper.h"

uint8_t stream[SIZE];

static void fill_stream(void)
{
    static const uint8_t head[HEAD_SIZE] = {'L', 'i', 'b', 'x', 'l', 'F', 'm', 't', 0,
                                            0,   0,   2,   0,   0,   0,   0,   1};
    uint32_t emulator[2] = {EMU_TYPE, EMU_SIZE};

    memset(stream, 0, sizeof(stream));
    memcpy(stream, head, sizeof(head));
    for (size_t n = HEAD_SIZE; n < END_AT; n++)
        stream[n] = (uint8_t)(n * 7 + n / 251 + 1);
    memcpy(stream + TAIL_AT, emulator, sizeof(emulator));
}

/* ---- one domain ---- */

struct world_domain dom;

int xc_domain_getinfolist(xc_interface *xc, uint32_t first, unsigned int count,
                          xc_domaininfo_t *ret)
{
    (void)xc;
    if (!dom.is_there || first > dom.domid || count == 0)
        return 0;
    memset(ret, 0, sizeof(*ret));
    ret->domain = (domid_t)dom.domid;
    if (dom.is_suspended)
        ret->flags = XEN_DOMINF_shutdown | (SHUTDOWN_suspend << XEN_DOMINF_shutdownshift);
    if (dom.is_paused)
        ret->flags |= XEN_DOMINF_paused;
    memcpy(ret->handle, dom.handle, sizeof(ret->handle));
    return 1;
}

int xc_domain_claim_pages(xc_interface *xc, uint32_t domid, unsigned long pages)
{
    (void)xc, (void)domid, (void)pages;
    return 0;
}

int xc_domain_pause(xc_interface *xc, uint32_t domid)
{
    (void)xc, (void)domid;
    dom.is_paused = true;
    return 0;
}

enum hv_outcome xen_remove(struct hv_xen *of, uint32_t domid, struct ha_err *err)
{
    (void)err;
    dom.is_there = false;
    xen_record_remove(of->dir_fd, domid);
    return HV_OK;
}

int xen_tracking_off(struct hv_xen *of, const struct xen_look *look, struct ha_err *err)
{
    (void)of, (void)look, (void)err;
    return 0;
}

int xen_set_cap(struct hv_xen *of, uint32_t domid, uint16_t cap, struct ha_err *err)
{
    (void)of, (void)domid, (void)cap, (void)err;
    return 0;
}

enum hv_outcome xen_resume_prepare(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    (void)hv, (void)domid, (void)err;
    dom.is_suspended = false;
    return HV_OK;
}

bool xen_use_helper(struct hv_xen *of)
{
    (void)of;
    return false;
}

/* ---- libxl ---- */

enum { READING = 1, WRITING, IN_HELPER, OVER };

const char *receiver_says;
int save_flags;

static struct {
    xentoollog_logger *logger;
    const libxl_childproc_hooks *hooks;
    void *hooks_user;
    libxl_asyncop_how how;
    int fd, state;
    bool is_save;
    pid_t helper; /* 0: it was not started */
    /* What is being read or written now. */
    uint8_t *bytes;
    size_t size, done;
    uint8_t head[16], record[8], *body;
} fake;

static void end_op(int rc)
{
    free(fake.body);
    fake.body = NULL;
    fake.state = OVER;
    if (rc != 0 && !fake.is_save)
        dom.is_there = false;
    fake.how.callback(NULL, rc, fake.how.u.for_callback);
}

/* libxl ends all there is, and tells the helper's callback of it first. */
static void fail_op(void)
{
    if (fake.helper == 0)
        fail_msg("libxl calls through a null pointer: its helper was not started");
    end_op(ERROR_FAIL);
}

static void next(int state, uint8_t *bytes, size_t size)
{
    fake.state = state;
    fake.bytes = bytes;
    fake.size = size;
    fake.done = 0;
}

enum world_mover mover;

static bool move_image(void)
{
    static uint8_t image[IMAGE_SIZE];
    size_t at = 0;

    while (at < IMAGE_SIZE) {
        ssize_t n = fake.is_save ? write(fake.fd, stream + HEAD_SIZE + at, IMAGE_SIZE - at)
                                 : read(fake.fd, image + at, IMAGE_SIZE - at);
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    return fake.is_save || memcmp(image, stream + HEAD_SIZE, IMAGE_SIZE) == 0;
}

/* As restore.c: by the program's own division. */
_Noreturn static void restore_in_helper(void)
{
    static const struct ha_err why = {.code = HA_E_UNKNOWN, .text = "bad mfn"};
    struct helper h = {.args.fd = fake.fd, .link = {.fd = -1, .inherited = -1}, .front_fd = -1};

    helper_divide(&h);
    if (mover != NOT_EARLY) {
        helper_link_say(&h.link, LINK_EARLY, 0);
        helper_let_front_go(&h);
    }
    bool is_whole = move_image();
    helper_let_front_go(&h);
    if (mover == EARLY_DIES)
        _exit(1);
    helper_link_done(&h.link, is_whole && mover != EARLY_FAILS ? NULL : &why);
    _exit(is_whole ? 0 : 1);
}

static void start_helper(void)
{
    fake.state = IN_HELPER;
    fake.helper = fake.hooks->fork_replacement(fake.hooks_user);
    assert_true(fake.helper >= 0);
    if (fake.helper == 0 && !fake.is_save)
        restore_in_helper();
    if (fake.helper == 0)
        _exit(move_image() ? 0 : 1);
}

static void have_read(void)
{
    uint32_t words[2];

    if (fake.bytes == fake.head) {
        if (memcmp(fake.head, stream, 12) != 0)
            fail_op();
        else
            next(READING, fake.record, sizeof(fake.record));
        return;
    }
    memcpy(words, fake.record, sizeof(words));
    if (fake.bytes == fake.record && words[1] > 0) {
        fake.body = malloc(words[1]);
        assert_non_null(fake.body);
        next(READING, fake.body, words[1]);
        return;
    }
    if (words[0] == 0)
        end_op(0);
    else if (words[0] == 1)
        start_helper();
    else if (words[0] != EMU_TYPE || memcmp(fake.body, stream + TAIL_AT + 8, EMU_SIZE) != 0)
        fail_op();
    else
        next(READING, memset(fake.record, 0, sizeof(fake.record)), sizeof(fake.record));
}

static void read_on(void)
{
    while (fake.done < fake.size) {
        ssize_t n = read(fake.fd, fake.bytes + fake.done, fake.size - fake.done);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            fail_op();
            return;
        }
        if (n == 0)
            break; /* no error there: what is missing stays as it was */
        fake.done += (size_t)n;
    }
    have_read();
}

static void write_on(void)
{
    while (fake.done < fake.size) {
        ssize_t n = write(fake.fd, fake.bytes + fake.done, fake.size - fake.done);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            fail_op();
            return;
        }
        fake.done += (size_t)n;
    }
    if (fake.bytes == stream)
        start_helper();
    else
        end_op(0);
}

static void look_for_helper(void)
{
    int status;

    if (waitpid(fake.helper, &status, WNOHANG) != fake.helper)
        return;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail_op();
        return;
    }
    dom.is_suspended = fake.is_save;
    if (fake.is_save)
        next(WRITING, stream + TAIL_AT, SIZE - TAIL_AT);
    else
        next(READING, memset(fake.record, 0, sizeof(fake.record)), sizeof(fake.record));
}

bool libxl_is_done(void)
{
    return fake.state == OVER;
}

int libxl_osevent_beforepoll(libxl_ctx *ctx, int *count, struct pollfd *fds, int *timeout_ms,
                             struct timeval now)
{
    bool is_full = *count < 1;

    (void)ctx, (void)now;
    *count = fake.state == READING || fake.state == WRITING ? 1 : 0;
    if (is_full && *count > 0)
        return ERROR_BUFFERFULL;
    if (*count > 0)
        fds[0] = (struct pollfd){.fd = fake.fd, .events = fake.state == READING ? POLLIN : POLLOUT};
    else
        *timeout_ms = 1;
    return 0;
}

void libxl_osevent_afterpoll(libxl_ctx *ctx, int count, const struct pollfd *fds,
                             struct timeval now)
{
    (void)ctx, (void)now;
    if (fake.state == IN_HELPER)
        look_for_helper();
    else if (count > 0 && fds[0].revents != 0 && fake.state == READING)
        read_on();
    else if (count > 0 && fds[0].revents != 0 && fake.state == WRITING)
        write_on();
}

static int begin(const libxl_asyncop_how *how, int fd, bool is_save)
{
    fake.how = *how;
    fake.fd = fd;
    fake.is_save = is_save;
    fake.helper = 0;
    assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
    next(is_save ? WRITING : READING, is_save ? stream : memset(fake.head, 0, sizeof(fake.head)),
         is_save ? HEAD_SIZE : sizeof(fake.head));
    memset(fake.record, 0, sizeof(fake.record));
    return 0;
}

static void __attribute__((format(printf, 1, 2))) log_error(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fake.logger->vmessage(fake.logger, XTL_ERROR, -1, "xc", format, args);
    va_end(args);
}

int libxl_domain_create_restore(libxl_ctx *ctx, libxl_domain_config *config, uint32_t *domid,
                                int restore_fd, int send_back_fd,
                                const libxl_domain_restore_params *params,
                                const libxl_asyncop_how *how,
                                const libxl_asyncprogress_how *console_how)
{
    (void)ctx, (void)send_back_fd, (void)params, (void)console_how;
    dom.domid = *domid = config->c_info.domid;
    memcpy(dom.handle, config->c_info.uuid.uuid, sizeof(dom.handle));
    dom.is_there = dom.is_paused = true;
    dom.is_suspended = false;
    if (receiver_says)
        log_error("%s", receiver_says);
    return begin(how, restore_fd, false);
}

int libxl_domain_suspend(libxl_ctx *ctx, uint32_t domid, int fd, int flags,
                         const libxl_asyncop_how *how)
{
    (void)ctx, (void)domid;
    save_flags = flags;
    return begin(how, fd, true);
}

int libxl_ao_abort(libxl_ctx *ctx, const libxl_asyncop_how *how)
{
    (void)ctx, (void)how;
    fail_op();
    return 0;
}

int libxl_ctx_alloc(libxl_ctx **ret, int version, unsigned flags, xentoollog_logger *logger)
{
    (void)version, (void)flags;
    fake.logger = logger;
    *ret = (libxl_ctx *)(void *)&fake;
    return 0;
}

int libxl_ctx_free(libxl_ctx *ctx)
{
    (void)ctx;
    return 0;
}

void libxl_childproc_setmode(libxl_ctx *ctx, const libxl_childproc_hooks *hooks, void *user)
{
    (void)ctx;
    fake.hooks = hooks;
    fake.hooks_user = user;
}

/* What the same files use and these tests hardly do. */
void libxl_domain_config_init(libxl_domain_config *config)
{
    memset(config, 0, sizeof(*config));
}

void libxl_domain_config_dispose(libxl_domain_config *config)
{
    free(config->c_info.name);
}

int libxl_domain_config_from_json(libxl_ctx *ctx, libxl_domain_config *config, const char *text)
{
    (void)ctx, (void)config, (void)text;
    return 0;
}

void libxl_domain_restore_params_init(libxl_domain_restore_params *params)
{
    memset(params, 0, sizeof(*params));
}

void libxl_domain_restore_params_dispose(libxl_domain_restore_params *params)
{
    (void)params;
}

void libxl_defbool_set(libxl_defbool *value, bool is_on)
{
    (void)value, (void)is_on;
}

int libxl_domain_create_new(libxl_ctx *ctx, libxl_domain_config *config, uint32_t *domid,
                            const libxl_asyncop_how *how, const libxl_asyncprogress_how *console)
{
    (void)ctx, (void)config, (void)domid, (void)how, (void)console;
    return ERROR_FAIL;
}

int libxl_domain_unpause(libxl_ctx *ctx, uint32_t domid, const libxl_asyncop_how *how)
{
    (void)ctx, (void)domid, (void)how;
    return ERROR_FAIL;
}

int libxl_domain_rename(libxl_ctx *ctx, uint32_t domid, const char *before, const char *after)
{
    (void)ctx, (void)domid, (void)before, (void)after;
    return 0;
}

/* ---- the driver ---- */

struct hv_xen x;
char dir[64];
const struct hv_label LABEL = {.guest.b = {7, 7}, .epoch = 2};

int set_up(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN); /* as a worker has it */
    fill_stream();
    memset(&dom, 0, sizeof(dom));
    snprintf(dir, sizeof(dir), "/tmp/hamgr-stream-XXXXXX");
    assert_non_null(mkdtemp(dir));
    memset(&x, 0, sizeof(x));
    receiver_says = NULL;
    snprintf(x.allow_path, sizeof(x.allow_path), "%s/none", dir);
    x.dir_fd = xen_records_open(dir, NULL);
    assert_true(x.dir_fd >= 0);
    return 0;
}

int tear_down(void **state)
{
    static const char *const names[] = {"lock", "last-domid"};
    char path[96];

    (void)state;
    xen_lx_close(x.lx);
    xen_record_remove(x.dir_fd, dom.domid);
    for (size_t i = 0; i < 2; i++)
        unlinkat(x.dir_fd, names[i], 0);
    close(x.dir_fd);
    snprintf(path, sizeof(path), "%s/domains", dir);
    return rmdir(path) == 0 && rmdir(dir) == 0 ? 0 : -1;
}

void write_all(int fd, const uint8_t *bytes, size_t size, size_t step)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = write(fd, bytes + at, size - at < step ? size - at : step);
        if (n <= 0)
            return;
        at += (size_t)n;
    }
}

/* A process that writes the first size bytes of the stream, step at a time, and is gone. */
int begin_pour(size_t size, size_t step, pid_t *ret_pid)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    *ret_pid = fork();
    assert_true(*ret_pid >= 0);
    if (*ret_pid == 0) {
        close(pair[1]);
        write_all(pair[0], stream, size, step);
        _exit(0);
    }
    close(pair[0]);
    return pair[1];
}

enum hv_outcome restore_from(int fd, hv_progress_fn progress, void *user, struct ha_err *err)
{
    char definition[256];
    const char *kind = x.has_helper ? "pv" : "pvh";
    uint32_t domid = 0;

    snprintf(definition, sizeof(definition),
             "{\"c_info\":{\"type\":\"%s\",\"name\":\"web1\"},\"b_info\":{\"max_vcpus\":1,"
             "\"avail_vcpus\":[0],\"max_memkb\":4096,\"target_memkb\":4096,\"type.%s\":{}}}",
             kind, kind);
    return xen_restore(&x.hv, &LABEL, "web1", (const uint8_t *)definition, strlen(definition), fd,
                       -1, progress, user, &domid, err);
}

enum hv_outcome restore(size_t size, size_t step, struct ha_err *err)
{
    pid_t pid;
    int fd = begin_pour(size, step, &pid);
    enum hv_outcome outcome = restore_from(fd, NULL, NULL, err);

    close(fd);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return outcome;
}

void assert_refused(size_t size, const char *word)
{
    struct ha_err err = {0};

    if (restore(size, SIZE, &err) != HV_FAILED || !strstr(err.text, word))
        fail_msg("%zu bytes: %s, wanted %s", size, err.text, word);
    assert_false(dom.is_there);
}

/* As a worker does when it is told to stop. */
void take_away(void *user, const struct hv_progress *progress)
{
    const int *fd = user;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    (void)progress;
    assert_true(dup2(null, *fd) == *fd);
    close(null);
}
