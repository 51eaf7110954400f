/* autoglm run: one answer, or a chat in the terminal. */
#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/chat.h"
#include "cli/cli.h"

#define PROMPT_MAX (64u << 20)
#define HISTORY_LINES 1000

static int answer_json(const ag_chat_answer *a)
{
    ag_buf b;
    ag_buf_init(&b, 8u * AG_CHAT_ANSWER_MAX);
    ag_buf_addz(&b, "{\"text\":");
    ag_buf_add_json(&b, a->text.p, a->text.n);
    ag_buf_addf(
        &b,
        ",\"finish_reason\":\"%s\",\"prompt_tokens\":%u,\"completion_tokens\":%u,\"first_token_ms\":%.3f,\"total_ms\":%.3f}\n",
        a->finish, a->prompt_tokens, a->tokens, (double)a->first_us / 1e3, (double)a->all_us / 1e3);
    bool ok = !b.failed;
    if (ok) fwrite(b.p, 1, b.n, stdout);
    ag_buf_fini(&b);
    return ok ? 0 : 1;
}

static int once(ag_chat *c, const char *prompt, size_t n, bool json, ag_err *err)
{
    ag_chat_answer a = {0};
    ag_buf_init(&a.text, AG_CHAT_ANSWER_MAX);
    bool tty = isatty(STDOUT_FILENO);
    int rc = ag_chat_ask(c, prompt, n, json ? NULL : stdout, tty, &a, err);
    if (!json && a.tokens && (a.text.n == 0 || a.text.p[a.text.n - 1] != '\n')) putchar('\n');
    if (rc == AG_OK && json && answer_json(&a) != 0) rc = ag_err_set(err, AG_E_NOMEM, "no memory to print the answer");
    ag_buf_fini(&a.text);
    return rc;
}

/* Where the lines of earlier chats are kept; they may be private, so the file is the owner's alone. */
static bool history_path(char *out, size_t max)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n;
    if (state && *state == '/') n = snprintf(out, max, "%s", state);
    else if (home && *home == '/') n = snprintf(out, max, "%s/.local/state", home);
    else return false;
    if (n < 0 || (size_t)n + sizeof "/autoglm/history" > max) return false;
    for (char *p = out + 1; *p; p++) /* the folders on the way, where they are missing */
        if (*p == '/') *p = 0, mkdir(out, 0700), *p = '/';
    mkdir(out, 0700);
    strcat(out, "/autoglm");
    mkdir(out, 0700);
    strcat(out, "/history");
    return true;
}

static char *prompt_text(EditLine *el)
{
    (void)el;
    static char text[] = ">>> ";
    return text;
}

static EditLine *editor_open(History *lines)
{
    EditLine *el = el_init("autoglm", stdin, stdout, stderr);
    if (el == NULL) return NULL;
    el_set(el, EL_PROMPT, prompt_text);
    el_set(el, EL_EDITOR, "emacs");
    el_set(el, EL_HIST, history, lines);
    el_set(el, EL_BIND, "^C", "em-kill-line", NULL);
    el_set(el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    /* Ctrl-D between the prompt and the editor's keys arrives as NUL, which else means: take the next key literally. */
    el_set(el, EL_BIND, "^@", "ed-ignore", NULL);
    el_set(el, EL_SETTY, "-d", "-isig", NULL); /* so that ^C arrives here as a key */
    el_source(el, NULL);
    return el;
}

static void chat_help(void)
{
    printf(
        "/clear   begin a new conversation\n/exit    leave (as Ctrl-D does)\nCtrl-C   stop the answer, or take the line away\n");
}

static void reply(ag_chat *c, const char *line, size_t n)
{
    ag_err err = {0};
    int rc = once(c, line, n, false, &err);
    if (rc == AG_E_CANCELLED) printf("\n[stopped]\n");
    else if (rc != AG_OK) fprintf(stderr, "%s\n", err.text);
}

static int chat(ag_chat *c, bool keep_history)
{
    char path[4096];
    HistEvent ev;
    /* The editor prints its prompt a moment before it takes the keys: Ctrl-C then must not be the end. */
    signal(SIGINT, SIG_IGN);
    setlocale(LC_CTYPE, ""); /* the editor counts columns in characters; numbers stay as in C */
    History *lines = history_init();
    EditLine *el = lines ? editor_open(lines) : NULL;
    if (el == NULL) {
        if (lines) history_end(lines);
        fprintf(stderr, "autoglm run: no memory for the line editor\n");
        return 1;
    }
    bool keep = keep_history && history_path(path, sizeof path);
    history(lines, &ev, H_SETSIZE, HISTORY_LINES);
    history(lines, &ev, H_SETUNIQUE, 1);
    if (keep) history(lines, &ev, H_LOAD, path);
    if (ag_chat_raw(c)) fprintf(stderr, "The model has no chat template in use: it continues each line as text.\n");
    fprintf(stderr, "/help lists what can be said besides; Ctrl-D leaves.\n");
    const char *line;
    for (int n; (line = el_gets(el, &n)) != NULL && n > 0;) {
        ag_str s = {line, (size_t)n};
        while (s.n && (s.p[s.n - 1] == '\n' || s.p[s.n - 1] == ' ')) s.n--;
        while (s.n && *s.p == ' ') s.p++, s.n--;
        if (s.n == 0) continue;
        history(lines, &ev, H_ENTER, line);
        if (ag_str_eqz(s, "/exit")) break;
        if (ag_str_eqz(s, "/help")) chat_help();
        else if (ag_str_eqz(s, "/clear")) ag_chat_clear(c);
        else if (*s.p == '/' && memchr(s.p, ' ', s.n) == NULL)
            printf("There is no %.*s; /help lists what there is.\n", (int)s.n, s.p);
        else reply(c, s.p, s.n);
    }
    if (keep) {
        mode_t mask = umask(077);
        history(lines, &ev, H_SAVE, path);
        umask(mask);
    }
    el_end(el);
    history_end(lines);
    putchar('\n');
    return 0;
}

static int run(const ag_chat_conf *conf, const char *prompt, bool json, bool keep_history, ag_err *err, int *status)
{
    ag_buf input;
    ag_buf_init(&input, PROMPT_MAX);
    bool terminal = prompt == NULL && isatty(STDIN_FILENO);
    ag_chat *c = NULL;
    int rc = AG_OK;
    if (prompt && !ag_buf_addz(&input, prompt)) rc = ag_err_set(err, AG_E_NOMEM, "no memory for the prompt");
    else if (!prompt && !terminal) rc = ag_cli_read(NULL, &input, err);
    if (terminal && json) rc = ag_err_set(err, AG_E_USAGE, "--json answers once: give a PROMPT, or one on stdin");
    while (!prompt && input.n && input.p[input.n - 1] == '\n')
        input.n--; /* echo and editors end a text with a newline */
    if (rc == AG_OK) rc = ag_chat_open(&c, conf, err);
    if (rc == AG_OK && terminal) *status = chat(c, keep_history);
    else if (rc == AG_OK) rc = once(c, input.p, input.n, json, err);
    ag_chat_close(c);
    ag_buf_fini(&input);
    return rc;
}

int ag_cmd_run(int argc, char **argv)
{
    ag_chat_conf conf = {.sampling = AG_SAMPLING_DEFAULT};
    bool json = false, no_history = false;
    conf.sampling.temperature = 0.7f;
    conf.sampling.seed = ((uint64_t)randombytes_random() << 32) | randombytes_random();
    const ag_opt opts[] = {
        {"system", 's', AG_OPT_TEXT, &conf.system, 0, 0, "what the model is told before the conversation"},
        {"chat-template", 0, AG_OPT_TEXT, &conf.chat_template, 0, 0,
         "a file to use in place of the model's own template"},
        {"raw", 0, AG_OPT_FLAG, &conf.raw, 0, 0, "continue the prompt as text, without a template"},
        {"max-tokens", 'n', AG_OPT_U32, &conf.max_tokens, 0, 16777216, "of an answer; 0: what the context holds [0]"},
        {"temperature", 't', AG_OPT_F32, &conf.sampling.temperature, 0, 10, "0: always the most probable token [0.7]"},
        {"top-p", 0, AG_OPT_F32, &conf.sampling.top_p, 0.000001, 1, "1: off [1]"},
        {"top-k", 0, AG_OPT_U32, &conf.sampling.top_k, 0, 1000000, "0: off [0]"},
        {"min-p", 0, AG_OPT_F32, &conf.sampling.min_p, 0, 1, "0: off [0]"},
        {"repetition-penalty", 0, AG_OPT_F32, &conf.sampling.repetition_penalty, 0.01, 10, "1: off [1]"},
        {"seed", 0, AG_OPT_U64, &conf.sampling.seed, 0, 18446744073709551615.0,
         "the same seed gives the same answers [random]"},
        {"json", 0, AG_OPT_FLAG, &json, 0, 0, "the answer as one JSON object"},
        {"no-history", 0, AG_OPT_FLAG, &no_history, 0, 0, "neither read nor keep the lines of earlier chats"},
    };
    ag_cli cli = {
        .usage = "run MODEL [PROMPT] [OPTIONS]",
        .about =
            "Answers PROMPT, or the text on stdin, once; on a terminal without PROMPT, chats. Ctrl-C stops an answer.",
        .opts = opts,
        .n_opts = AG_ARRAY_LEN(opts),
        .groups = "engine",
        .args_min = 1,
        .args_max = 2};
    int status = 0;
    if (ag_cli_parse(&cli, argc, argv, &status)) {
        ag_err err = {0};
        conf.model = cli.args[0];
        conf.settings = &cli.conf;
        bool chats = cli.n_args < 2 && isatty(STDIN_FILENO);
        int rc = run(&conf, cli.n_args > 1 ? cli.args[1] : NULL, json, !no_history, &err, &status);
        if (rc == AG_E_CANCELLED && !chats) status = 130;
        else if (rc != AG_OK) status = ag_cli_fail(argv[0], &err);
    }
    ag_cli_fini(&cli);
    return status;
}
