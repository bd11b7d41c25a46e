/* The commands of nvidia-cuda-mps-control. What they print, and that most mistakes print nothing, was measured on
   NVIDIA's program; reasons go to the log. */
#include "mps_daemon.h"

#include "ini.h"
#include "mps_values.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_WORDS = 8 };

struct command {
    struct mps_daemon *daemon;
    struct mps_answer *answer;
    char *words[MAX_WORDS + 1]; /* NULL behind the last */
};

void mps_answer_line(struct mps_answer *answer, const char *format, ...)
{
    char line[MPS_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    mps_log_line(answer->log, "%s", line);
    size_t room = sizeof answer->text - answer->length;
    int length = snprintf(answer->text + answer->length, room, "%s\n", line);
    if (length > 0 && (size_t)length < room)
        answer->length += (size_t)length;
}

static const char *word(const struct command *command, unsigned int index)
{
    return command->words[index] == NULL ? "" : command->words[index];
}

static struct mps_server *find_server(struct command *command, const char *pid)
{
    struct mps_server *server = &command->daemon->server;
    long number = strtol(pid, NULL, 10);
    if (number > 0 && server->pid == number)
        return server;
    mps_answer_line(command->answer, "Server %ld not found", number);
    return NULL;
}

static void print_percentage(struct command *command, uint32_t thousandths)
{
    char text[16];
    mps_format_percentage(thousandths, text);
    mps_answer_line(command->answer, "%s", text);
}

/* An invalid one leaves the old value, which is printed either way. */
static void set_percentage(struct command *command, const char *text, uint32_t *thousandths)
{
    if (!mps_parse_percentage(text, thousandths))
        mps_log_line(command->answer->log, "Invalid percentage, expected between (0.0, 100.0]");
    print_percentage(command, *thousandths);
}

/* Where a command's device has its limit; NULL if it names none. */
static uint64_t *find_limit(const struct command *command, const char *text, struct mps_settings *settings, bool merged)
{
    unsigned int ordinal = 0;
    if (ini_number(text, 0, MPS_ORDINALS - 1, &ordinal))
        return &settings->limits[ordinal];
    if (!devices_find(command->daemon->devices, command->daemon->device_count, text, &ordinal))
        return NULL;
    merged = merged && !mps_ignores_uuid_limit(command->daemon, ordinal);
    return merged ? &settings->limits[ordinal] : &settings->uuid_limits[ordinal];
}

static void set_limit(struct command *command, unsigned int first_word, struct mps_settings *settings, bool merged)
{
    uint64_t bytes = 0;
    const char *device = word(command, first_word), *value = word(command, first_word + 1);
    uint64_t *limit = find_limit(command, device, settings, merged);
    mps_log_line(command->answer->log, "%s %s %s.", word(command, 0), device, value);
    if (limit != NULL && mps_parse_memory(value, &bytes))
        *limit = bytes;
}

static void print_limit(struct command *command, const char *device, struct mps_settings *settings, bool merged)
{
    const uint64_t *limit = find_limit(command, device, settings, merged);
    char text[32];
    if (limit == NULL || *limit == 0) {
        mps_log_line(command->answer->log, "No default pinned memory limit set for the device!");
        return;
    }
    mps_format_memory(*limit, text);
    mps_answer_line(command->answer, "%s", text);
}

static void get_server_list(struct command *command)
{
    if (command->daemon->server.pid != 0)
        mps_answer_line(command->answer, "%d", (int)command->daemon->server.pid);
}

static void get_server_status(struct command *command)
{
    const struct mps_server *server = find_server(command, word(command, 1));
    if (server != NULL)
        mps_answer_line(command->answer, server->ready ? "ACTIVE" : "INITIALIZING");
}

static void get_client_list(struct command *command)
{
    if (find_server(command, word(command, 1)) != NULL)
        mps_report_clients(command->daemon, command->answer);
}

static void get_device_client_list(struct command *command)
{
    pid_t pid = command->daemon->server.pid;
    if (pid != 0 && (command->words[1] == NULL || strtol(command->words[1], NULL, 10) == pid))
        mps_report_device_clients(command->daemon, command->answer);
}

static void ps(struct command *command)
{
    if (strcmp(word(command, 1), "-p") == 0) {
        if (find_server(command, word(command, 2)) == NULL)
            return;
    } else if (command->daemon->server.pid == 0) {
        mps_answer_line(command->answer, "Server not found");
        return;
    }
    mps_report_processes(command->daemon, command->answer);
}

static void set_default_active_thread_percentage(struct command *command)
{
    set_percentage(command, word(command, 1), &command->daemon->defaults.percentage);
}

static void get_default_active_thread_percentage(struct command *command)
{
    print_percentage(command, command->daemon->defaults.percentage);
}

static void set_active_thread_percentage(struct command *command)
{
    struct mps_server *server = find_server(command, word(command, 1));
    if (server == NULL)
        return;
    set_percentage(command, word(command, 2), &server->settings.percentage);
    mps_server_send_settings(command->daemon);
}

static void get_active_thread_percentage(struct command *command)
{
    const struct mps_server *server = find_server(command, word(command, 1));
    if (server != NULL)
        print_percentage(command, server->settings.percentage);
}

static void set_default_device_pinned_mem_limit(struct command *command)
{
    set_limit(command, 1, &command->daemon->defaults, false);
}

static void get_default_device_pinned_mem_limit(struct command *command)
{
    print_limit(command, word(command, 1), &command->daemon->defaults, false);
}

static void set_device_pinned_mem_limit(struct command *command)
{
    struct mps_server *server = find_server(command, word(command, 1));
    if (server == NULL)
        return;
    set_limit(command, 2, &server->settings, true);
    mps_server_send_settings(command->daemon);
}

static void get_device_pinned_mem_limit(struct command *command)
{
    struct mps_server *server = find_server(command, word(command, 1));
    if (server != NULL)
        print_limit(command, word(command, 2), &server->settings, true);
}

/* NVIDIA documents 0 (normal) and 1 (below normal). Nothing runs here that a priority could order. */
static void set_default_client_priority(struct command *command)
{
    unsigned int priority;
    if (ini_number(word(command, 1), 0, 1, &priority))
        command->daemon->defaults.priority = priority;
    else
        mps_log_line(command->answer->log, "Invalid priority, expected 0 or 1");
}

static void get_default_client_priority(struct command *command)
{
    mps_answer_line(command->answer, "%u", command->daemon->defaults.priority);
}

static void terminate_client(struct command *command)
{
    if (find_server(command, word(command, 1)) != NULL)
        mps_server_terminate_client(command->daemon, (int32_t)strtol(word(command, 2), NULL, 10));
}

static void device_query(struct command *command)
{
    char heading[32] = "Default";
    bool csv = false;
    for (unsigned int i = 1; command->words[i] != NULL; i++) {
        if (strcmp(command->words[i], "--csv") == 0) {
            csv = true;
            continue;
        }
        const struct mps_server *server = find_server(command, command->words[i]);
        if (server == NULL)
            return;
        snprintf(heading, sizeof heading, "Server %d", (int)server->pid);
    }
    mps_report_devices(command->daemon, heading, csv, command->answer);
}

static void start_server(struct command *command)
{
    unsigned int uid;
    if (strcmp(word(command, 1), "-uid") != 0 || !ini_number(word(command, 2), 0, UINT32_MAX - 1, &uid)) {
        mps_log_line(command->answer->log, "start_server needs -uid <user id>");
        return;
    }
    /* The group of the same number: no passwd file tells more to a program that runs in any image. */
    if (command->daemon->server.pid == 0 && !command->daemon->quitting)
        mps_server_start(command->daemon, uid, uid);
}

static void quit(struct command *command)
{
    unsigned int seconds;
    struct mps_daemon *daemon = command->daemon;
    daemon->quitting = true;
    if (strcmp(word(command, 1), "-t") == 0 && ini_number(word(command, 2), 0, 1000000, &seconds))
        daemon->quit_deadline = mps_now() + (int64_t)seconds * 1000;
}

static const struct {
    const char *name;
    void (*run)(struct command *command);
} commands[] = {
#define COMMAND(name) {#name, name}
    COMMAND(get_server_list),
    COMMAND(get_server_status),
    COMMAND(get_client_list),
    COMMAND(get_device_client_list),
    COMMAND(ps),
    COMMAND(set_default_active_thread_percentage),
    COMMAND(get_default_active_thread_percentage),
    COMMAND(set_active_thread_percentage),
    COMMAND(get_active_thread_percentage),
    COMMAND(set_default_device_pinned_mem_limit),
    COMMAND(get_default_device_pinned_mem_limit),
    COMMAND(set_device_pinned_mem_limit),
    COMMAND(get_device_pinned_mem_limit),
    COMMAND(set_default_client_priority),
    COMMAND(get_default_client_priority),
    COMMAND(terminate_client),
    COMMAND(device_query),
    COMMAND(start_server),
    COMMAND(quit),
#undef COMMAND
};

/* Whoever may reach the socket may ask; what changes something is for the daemon's own user and root: measured. */
static bool may_run(const char *name, uid_t user, struct mps_answer *answer)
{
    bool changes = strncmp(name, "set_", 4) == 0 || strcmp(name, "terminate_client") == 0 ||
                   strcmp(name, "start_server") == 0 || strcmp(name, "quit") == 0;
    if (!changes || user == 0 || user == geteuid())
        return true;
    if (strcmp(name, "quit") == 0)
        mps_answer_line(answer, "Not enough privilege to execute quit command");
    else
        mps_answer_line(answer,
                        "Insufficient privileges for UID %u. Control deamon settings can only be modified by the user "
                        "who started it or by the root user.",
                        (unsigned int)user);
    return false;
}

bool mps_command(struct mps_daemon *daemon, uid_t user, const char *line, struct mps_answer *answer)
{
    char copy[MPS_TEXT_SIZE], *state = NULL;
    struct command command = {.daemon = daemon, .answer = answer};
    unsigned int count = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *item = strtok_r(copy, " ", &state); item != NULL && count < MAX_WORDS;
         item = strtok_r(NULL, " ", &state))
        command.words[count++] = item;
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(commands[i].name, word(&command, 0)) == 0) {
            if (!may_run(commands[i].name, user, answer))
                return false;
            commands[i].run(&command);
            return commands[i].run == quit;
        }
    }
    mps_answer_line(answer, "Unknown command \"%s\"", word(&command, 0));
    return false;
}
