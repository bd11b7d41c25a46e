#include "failure.h"

#include "json.h"

enum exit_code failure_report(const struct failure *failure)
{
    fputs("{\"error\": ", stdout);
    json_string(stdout, failure->error);
    if (failure->call != NULL)
        printf(", \"code\": %d, \"call\": \"%s\"", failure->code, failure->call);
    else
        fputs(", \"code\": null, \"call\": null", stdout);
    printf(", \"exit_code\": %d}\n", failure->exit_code);
    fflush(stdout);
    return failure->exit_code;
}
