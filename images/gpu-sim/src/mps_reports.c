/* What the daemon tells of clients and devices, in the columns of NVIDIA's nvidia-cuda-mps-control. */
#include "mps_daemon.h"

#include <stdio.h>

enum { SHORT_UUID = 22 };

static void process_row(const struct mps_daemon *daemon, const struct mps_process *process, const char *uuid,
                        struct mps_answer *answer)
{
    char short_uuid[SHORT_UUID + 1];
    snprintf(short_uuid, sizeof short_uuid, "%s", uuid);
    char namespace[24] = "?";
    if (process->pid != 0)
        snprintf(namespace, sizeof namespace, "%llu", (unsigned long long)process->pid_namespace);
    mps_answer_line(answer, "%-10d%-10u%-15d%-26s%-15s%-15s", process->pid, process->client_id,
                    (int)daemon->server.pid, short_uuid, namespace, process->pid != 0 ? process->command : "?");
}

/* A row a client and device; a client without a context uses no device yet. */
static void client_rows(const struct mps_daemon *daemon, const struct mps_process *client, struct mps_answer *answer)
{
    bool told[DEVICES_MAX] = {false};
    bool any = false;
    for (unsigned int i = 0; i < daemon->server.context_count; i++) {
        const struct mps_event *context = &daemon->server.contexts[i];
        if (context->process.client_id != client->client_id || context->device >= daemon->device_count ||
            told[context->device])
            continue;
        process_row(daemon, client, device_uuid(&daemon->devices[context->device]), answer);
        told[context->device] = any = true;
    }
    if (!any)
        process_row(daemon, client, "N/A", answer);
}

/* All clients that the daemon does not see are one to it: they share the PID 0. */
static bool told_already(const struct mps_server *server, unsigned int number)
{
    for (unsigned int i = 0; i < number; i++) {
        if (server->clients[i].pid == 0 && server->clients[number].pid == 0)
            return true;
    }
    return false;
}

void mps_report_processes(const struct mps_daemon *daemon, struct mps_answer *answer)
{
    const struct mps_server *server = &daemon->server;
    if (server->client_count == 0)
        return;
    mps_answer_line(answer, "%-10s%-10s%-15s%-26s%-15s%-15s", "PID", "ID", "SERVER", "DEVICE", "NAMESPACE", "COMMAND");
    for (unsigned int i = 0; i < server->client_count; i++) {
        if (!told_already(server, i))
            client_rows(daemon, &server->clients[i], answer);
    }
}

void mps_report_clients(const struct mps_daemon *daemon, struct mps_answer *answer)
{
    for (unsigned int i = 0; i < daemon->server.client_count; i++) {
        if (!told_already(&daemon->server, i))
            mps_answer_line(answer, "%d", daemon->server.clients[i].pid);
    }
}

/* Of devices that clients use. The address in the heading is the ordinal, not the PCI bus's: measured. */
void mps_report_device_clients(const struct mps_daemon *daemon, struct mps_answer *answer)
{
    const struct mps_server *server = &daemon->server;
    for (unsigned int i = 0; i < daemon->device_count; i++) {
        bool any = false;
        for (unsigned int j = 0; j < server->context_count; j++) {
            const struct mps_event *context = &server->contexts[j];
            if (context->device != i)
                continue;
            if (!any)
                mps_answer_line(answer, "[%u] 00:%02x.0, %s", i, i, daemon->devices[i].gpu->model->product_name);
            any = true;
            mps_answer_line(answer, "%d.%u", context->process.pid, context->context_id);
        }
    }
}

static void device_row(const struct device *device, unsigned int ordinal, bool csv, struct mps_answer *answer)
{
    char name[MIG_NAME_SIZE + 16], number[16], pci[32];
    const struct gpu_config *gpu = device->gpu;
    device_name(device, name, sizeof name);
    snprintf(number, sizeof number, "%u", ordinal);
    snprintf(pci, sizeof pci, "%04x:%02x.%02x.00", gpu->pci_domain, gpu->pci_bus, gpu->pci_device);
    mps_answer_line(answer, csv ? "%s,%s,%s,%s,%s" : "%-16s%-15s%-42s%-34s%s", number, pci, device_uuid(device), name,
                    "N/A");
}

void mps_report_devices(const struct mps_daemon *daemon, const char *heading, bool csv, struct mps_answer *answer)
{
    mps_answer_line(answer, "%s", heading);
    mps_answer_line(answer, csv ? "%s,%s,%s,%s,%s" : "%-16s%-15s%-42s%-34s%s", "Device Ordinal", "PCI IDs", "UUID",
                    "Name", "Attributes");
    for (unsigned int i = 0; i < daemon->device_count; i++)
        device_row(&daemon->devices[i], i, csv, answer);
}
