/* NVML without a driver: as much of libnvidia-ml.so.1 as the local engine asks of it.
 *
 *     gcc -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 -o FOLDER/libnvidia-ml.so.1 nvml_stand_in.c
 *
 * What it answers stands in the text file that NVML_STAND_IN names, one `KEY VALUE` a line, and is read anew for every
 * question, so that a test can change it live. A key that is absent is a question that the device does not support.
 *
 *     error 9              every question is answered by this NVML error; without the file too: no driver is loaded
 *     devices 2            how many there are; driver 560.35
 *     0.uuid GPU-...       of device 0; likewise name, memory, used, utilisation, temperature, ecc (uncorrected),
 *                          mig (1 is on), rows (corrected uncorrected pending failed), retired (1 is pending), pci
 *     0.error 15           every question about device 0 is answered by this error, 0.uuid.error only that for its UUID
 *     0.processes 17:40 18:5   which process computed for which part of the time, in percent; - is none
 *     0.2.uuid MIG-...     of instance 2 of device 0; likewise name, memory
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, NO_DRIVER = 9 };
typedef void *Device; /* 100 * (device + 1) + (instance + 1, or 0) */
static int ready;

static int find(const char *key, char *value, size_t room) {
    const char *path = getenv("NVML_STAND_IN");
    FILE *file = path ? fopen(path, "r") : NULL;
    size_t length = strlen(key);
    char line[512];
    int found = 0;
    if (!file)
        return -1;
    while (!found && fgets(line, sizeof line, file))
        if (!strncmp(line, key, length) && line[length] == ' ') {
            snprintf(value, room, "%s", line + length + 1);
            value[strcspn(value, "\n")] = 0;
            found = 1;
        }
    fclose(file);
    return found;
}

/* The error that `KEY` or `KEY.error` names, else OK. */
static int error_of(const char *key) {
    char value[64];
    int found = find(key, value, sizeof value);
    return found < 0 ? NO_DRIVER : found ? atoi(value) : OK;
}

/* The answer to one question about a device, a device and an instance of it, or (no device) the machine. */
static int ask(Device device, const char *what, char *value, size_t room) {
    int number = (int)(intptr_t)device, error, found;
    char key[128], failing[160];
    if (!ready)
        return UNINITIALIZED;
    if ((error = error_of("error")))
        return error;
    snprintf(key, sizeof key, "%d.error", number / 100 - 1);
    if (number && (error = error_of(key)))
        return error;
    if (!number)
        snprintf(key, sizeof key, "%s", what);
    else if (number % 100)
        snprintf(key, sizeof key, "%d.%d.%s", number / 100 - 1, number % 100 - 1, what);
    else
        snprintf(key, sizeof key, "%d.%s", number / 100 - 1, what);
    snprintf(failing, sizeof failing, "%s.error", key);
    if ((error = error_of(failing)))
        return error;
    found = find(key, value, room);
    return found < 0 ? NO_DRIVER : found ? OK : NOT_SUPPORTED;
}

static int ask_number(Device device, const char *what, unsigned long long *number) {
    char value[64];
    int error = ask(device, what, value, sizeof value);
    if (!error)
        *number = strtoull(value, NULL, 10);
    return error;
}

static int ask_unsigned(Device device, const char *what, unsigned *number) {
    unsigned long long wide = 0;
    int error = ask_number(device, what, &wide);
    if (!error)
        *number = (unsigned)wide;
    return error;
}

int nvmlInitWithFlags(unsigned flags) {
    int error = error_of("error");
    (void)flags;
    ready = !error;
    return error;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return ready ? (ready = 0) : UNINITIALIZED; }
const char *nvmlErrorString(int code) { return code == NO_DRIVER ? "Driver Not Loaded" : "Error"; }
int nvmlSystemGetDriverVersion(char *version, unsigned room) { return ask(NULL, "driver", version, room); }
int nvmlDeviceGetCount_v2(unsigned *count) { return ask_unsigned(NULL, "devices", count); }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) {
    unsigned count = 0;
    char uuid[128];
    int error = ask_unsigned(NULL, "devices", &count);
    *device = (Device)(intptr_t)(100 * (index + 1));
    if (error || index >= count)
        return error ? error : INVALID;
    error = ask(*device, "handle", uuid, sizeof uuid);
    return error == NOT_SUPPORTED ? OK : error;
}
int nvmlDeviceGetUUID(Device device, char *uuid, unsigned room) { return ask(device, "uuid", uuid, room); }
int nvmlDeviceGetName(Device device, char *name, unsigned room) { return ask(device, "name", name, room); }
int nvmlDeviceGetMemoryInfo(Device device, unsigned long long memory[3]) { /* total, free, used */
    int error = ask_number(device, "memory", &memory[0]);
    memory[2] = 0;
    if (!error)
        ask_number(device, "used", &memory[2]);
    memory[1] = memory[0] - memory[2];
    return error;
}
int nvmlDeviceGetUtilizationRates(Device device, unsigned rates[2]) { /* compute, memory */
    rates[1] = 0;
    return ask_unsigned(device, "utilisation", &rates[0]);
}
typedef struct {
    unsigned pid;
    unsigned long long at_us;
    unsigned compute, memory, encoder, decoder;
} Sample;
int nvmlDeviceGetProcessUtilization(Device device, Sample *samples, unsigned *count, unsigned long long since_us) {
    char value[512], *word;
    unsigned found = 0, room = *count, pid, compute;
    int error = ask(device, "processes", value, sizeof value);
    (void)since_us;
    if (error)
        return error;
    for (word = strtok(value, " "); word; word = strtok(NULL, " "))
        if (sscanf(word, "%u:%u", &pid, &compute) == 2) {
            if (samples && found < room)
                samples[found] = (Sample){pid, 1000000 + found, compute, 0, 0, 0};
            found++;
        }
    *count = found;
    return !found ? NOT_FOUND : !samples || room < found ? INSUFFICIENT_SIZE : OK;
}
int nvmlDeviceGetTemperature(Device device, int sensor, unsigned *degrees) {
    (void)sensor;
    return ask_unsigned(device, "temperature", degrees);
}
int nvmlDeviceGetTotalEccErrors(Device device, int type, int counter, unsigned long long *count) {
    *count = 0;
    return type == 1 && counter == 0 ? ask_number(device, "ecc", count) : OK; /* uncorrected, since the driver came */
}
int nvmlDeviceGetRemappedRows(Device device, unsigned *fixed, unsigned *unfixed, unsigned *pending, unsigned *failed) {
    char value[64];
    int error = ask(device, "rows", value, sizeof value);
    if (!error && sscanf(value, "%u %u %u %u", fixed, unfixed, pending, failed) != 4)
        error = 999;
    return error;
}
int nvmlDeviceGetRetiredPagesPendingStatus(Device device, unsigned *pending) {
    return ask_unsigned(device, "retired", pending);
}
int nvmlDeviceGetPciInfo_v3(Device device, char *info) { /* 16 bytes, 5 unsigned, then the bus id */
    memset(info, 0, 68);
    return ask(device, "pci", info + 36, 32);
}
int nvmlDeviceGetMigMode(Device device, unsigned *current, unsigned *pending) {
    int error = ask_unsigned(device, "mig", current);
    *pending = *current;
    return error;
}
int nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned *count) {
    *count = 7;
    return ask_unsigned(device, "mig", &(unsigned){0});
}
int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device *instance) {
    char uuid[128];
    int error;
    *instance = (Device)((intptr_t)device + index + 1);
    error = ask(*instance, "memory", uuid, sizeof uuid);
    return error == NOT_SUPPORTED ? NOT_FOUND : error;
}
