/* nvidia-cuda-mps-control: the daemon, and the user interface that sends it commands. */
#include "mps_daemon.h"
#include "mps_socket.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "CUDA MPS Control for Linux/Unix/QNX (simulated).\n"
    "\n"
    "  Lets several CUDA processes share the simulated GPUs of images/gpu-sim, with their limits; no CUDA code runs.\n"
    "\n"
    "nvidia-cuda-mps-control [options]\n"
    "OPTIONS:\n"
    "  -h,--help                Print this text\n"
    "  -v                       Print the version\n"
    "  -d,--daemon              Run the daemon in the background\n"
    "  -f,--forground           Run the daemon in the foreground\n"
    "  -M,--multiuser-server    One server for the clients of all users; for root only\n"
    "  -q,--ready-devices       Accepted; the simulated devices are always ready\n"
    "\n"
    "COMMANDS, one a line on standard input; as with NVIDIA's program, arguments are ignored:\n"
    "  start_server -uid <user id>\n"
    "  quit [-t <seconds>]\n"
    "  get_server_list\n"
    "  get_server_status <PID>\n"
    "  get_client_list <PID>\n"
    "  get_device_client_list [<PID>]\n"
    "  ps [-p PID]\n"
    "  set_default_active_thread_percentage <percentage>\n"
    "  get_default_active_thread_percentage\n"
    "  set_active_thread_percentage <PID> <percentage>\n"
    "  get_active_thread_percentage <PID>\n"
    "  set_default_device_pinned_mem_limit <dev> <value>\n"
    "  get_default_device_pinned_mem_limit <dev>\n"
    "  set_device_pinned_mem_limit <PID> <dev> <value>\n"
    "  get_device_pinned_mem_limit <PID> <dev>\n"
    "  set_default_client_priority <priority>\n"
    "  get_default_client_priority\n"
    "  terminate_client <server PID> <client PID>\n"
    "  device_query [<PID>] [--csv]\n";

struct options {
    bool background;
    bool foreground;
    bool multiuser;
    bool help;
    bool version;
};

struct flag {
    const char *names[5];
    size_t offset;
};

static const struct flag flags[] = {
    {{"-d", "--daemon"}, offsetof(struct options, background)},
    /* NVIDIA's program spells it so. */
    {{"-f", "--forground", "--foreground"}, offsetof(struct options, foreground)},
    {{"-M", "--multiuser-server", "-multiuser-server"}, offsetof(struct options, multiuser)},
    {{"-h", "--help"}, offsetof(struct options, help)},
    {{"-v"}, offsetof(struct options, version)},
};

static bool take_flag(struct options *options, const char *argument)
{
    if (strcmp(argument, "-q") == 0 || strcmp(argument, "--ready-devices") == 0)
        return true;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        for (size_t j = 0; flags[i].names[j] != NULL; j++) {
            if (strcmp(argument, flags[i].names[j]) == 0)
                return *(bool *)((char *)options + flags[i].offset) = true;
        }
    }
    return false;
}

static void print_version(void)
{
    static struct inventory inventory;
    char error[PATH_MAX + 256];
    unsigned int version =
        inventory_load(&inventory, error, sizeof error) ? inventory.config.cuda_version : 0;
    printf("CUDA MPS Control for Linux/Unix/QNX. Binary version: %u (simulated)\n", version);
}

/* Prints the answer as it comes; false if the daemon went away before its end. */
static bool print_answer(int socket)
{
    struct mps_message message;
    while (mps_receive(socket, &message, NULL, true) == MPS_RECEIVED) {
        if (message.kind == MPS_END)
            return true;
        if (message.kind == MPS_TEXT)
            fputs(message.text, stdout);
        fflush(stdout);
    }
    return false;
}

static bool run_command(int socket, const char *text)
{
    struct mps_message message = mps_message(MPS_COMMAND);
    text += strspn(text, " \t\r");
    size_t length = strcspn(text, "\r\n");
    if (length == 0)
        return true;
    snprintf(message.text, sizeof message.text, "%.*s", (int)length, text);
    return mps_send(socket, &message, -1, true) && print_answer(socket);
}

static int run_interface(void)
{
    char line[MPS_TEXT_SIZE] = "";
    int socket = mps_connect("control");
    if (socket < 0) {
        puts("Cannot find MPS control daemon process");
        return EXIT_FAILURE;
    }
    while (fgets(line, sizeof line, stdin) != NULL && run_command(socket, line))
        continue;
    close(socket);
    return EXIT_SUCCESS;
}

static int run(const struct options *options)
{
    if (options->help) {
        fputs(usage, stdout);
        return EXIT_SUCCESS;
    }
    if (options->version) {
        print_version();
        return EXIT_SUCCESS;
    }
    if (options->multiuser && geteuid() != 0) {
        printf("%s\nOnly root user may enable -multiuser-server!\n", usage);
        return EXIT_FAILURE;
    }
    if (options->background || options->foreground)
        return mps_daemon_run(options->background, options->multiuser);
    return run_interface();
}

int main(int count, char **arguments)
{
    struct options options = {0};
    int position = 1;
    for (; position < count && *arguments[position] == '-'; position++) {
        if (!take_flag(&options, arguments[position])) {
            printf("Unrecognized option %s\n%s", arguments[position], usage);
            return EXIT_FAILURE;
        }
    }
    return run(&options);
}
