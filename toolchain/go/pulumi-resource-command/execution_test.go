package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	rpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
)

func resourceKey(name string) resource.PropertyKey { return resource.PropertyKey(name) }

func TestCommandRunsInDir(t *testing.T) {
	e := startPlugin(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	expect(t, e.create(props{"create": "pwd -P", "dir": dir}).outputs, "stdout", dir)
	_, err = e.tryCreate(t.Context(), props{"create": "true", "dir": dir + "/none"}, false)
	expectError(t, err, dir+"/none", "no such file or directory")
}

func TestEnvironmentAddsToTheInheritedOne(t *testing.T) {
	t.Setenv("INHERITED", "i")
	t.Setenv("OVERRIDDEN", "i")
	r := startPlugin(t).create(props{
		"create":      `echo "$INHERITED $OVERRIDDEN $ADDED"`,
		"environment": props{"OVERRIDDEN": "o", "ADDED": "a=b c"},
	})
	expect(t, r.outputs, "stdout", "i o a=b c")
}

func TestInterpreterGetsTheCommandAsItsLastArgument(t *testing.T) {
	e := startPlugin(t)
	r := e.create(props{"create": "a b", "interpreter": []any{"/bin/echo", "-n", "said:"}})
	expect(t, r.outputs, "stdout", "said: a b")
	expect(t, e.create(props{"create": "echo $0", "interpreter": []any{}}).outputs, "stdout", "/bin/sh")
	_, err := e.tryCreate(t.Context(), props{"create": "x", "interpreter": []any{"/no/such"}}, false)
	expectError(t, err, "could not be started", "/no/such")
}

func TestStdinIsTheGivenTextOrEmpty(t *testing.T) {
	e := startPlugin(t)
	expect(t, e.create(props{"create": "cat", "stdin": "a\nb"}).outputs, "stdout", "a\nb")
	expect(t, e.create(props{"create": "cat"}).outputs, "stdout", "")
	// A command that ignores a stdin larger than a pipe must still succeed.
	expect(t, e.create(props{"create": "echo ok", "stdin": strings.Repeat("x", 1<<20)}).outputs, "stdout", "ok")
}

func TestLoggingChoosesTheStreamsAndOutputsKeepBoth(t *testing.T) {
	for logging, want := range map[string][]string{
		"":                {"err", "out"},
		"stdoutAndStderr": {"err", "out"},
		"stdout":          {"out"},
		"stderr":          {"err"},
		"none":            nil,
	} {
		t.Run("logging="+logging, func(t *testing.T) {
			e := startPlugin(t)
			inputs := props{"create": "echo out; echo err >&2"}
			if logging != "" {
				inputs["logging"] = logging
			}
			r := e.create(inputs)
			expect(t, r.outputs, "stdout", "out")
			expect(t, r.outputs, "stderr", "err")
			got := e.logged()
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("logged %q, want %q", got, want)
			}
			for _, entry := range e.log.all() {
				if entry.Urn != urn || entry.Severity != rpc.LogSeverity_INFO {
					t.Errorf("entry %v: want the resource's URN and no error, which would fail the update", entry)
				}
			}
		})
	}
}

func TestLinesAreLoggedWhileTheCommandRuns(t *testing.T) {
	e := startPlugin(t)
	gate := filepath.Join(t.TempDir(), "gate")
	done := make(chan error, 1)
	go func() {
		_, err := e.tryCreate(t.Context(), props{
			"create": "echo early; until [ -e " + gate + " ]; do sleep 0.02; done; printf late",
		}, false)
		done <- err
	}()
	eventually(t, "the first line", func() bool { return slices.Contains(e.logged(), "early") })
	if slices.Contains(e.logged(), "late") {
		t.Error("logged before it was printed")
	}
	must(t, os.WriteFile(gate, nil, 0o600))
	must(t, <-done)
	if got := e.logged(); !slices.Equal(got, []string{"early", "late"}) {
		t.Errorf("logged %q", got)
	}
}

func TestHugeOutputIsKeptWhole(t *testing.T) {
	e := startPlugin(t)
	r := e.create(props{"create": "yes 0123456789abcde | head -c 1048576", "logging": "none"})
	if got := len(r.outputs["stdout"].StringValue()); got != 1<<20-1 {
		t.Errorf("%d bytes", got)
	}
	// One line of 1 MB is logged in pieces that split no character.
	r = e.create(props{"create": "yes é | tr -d '\\n' | head -c 1048576"})
	if got := strings.Join(e.logged(), ""); got != r.outputs["stdout"].StringValue() {
		t.Errorf("%d bytes logged, %d put out", len(got), len(r.outputs["stdout"].StringValue()))
	}
	if pieces := len(e.logged()); pieces < 16 {
		t.Errorf("%d pieces", pieces)
	}
}

func TestPreviousOutputTooLongForTheEnvironmentNamesTheRemedy(t *testing.T) {
	e := startPlugin(t)
	inputs := props{"create": "yes | head -c 200000", "logging": "none", "update": "echo done"}
	r := e.create(inputs)
	inputs["stdin"] = "changed"
	_, err := e.tryUpdate(r, inputs, false)
	expectError(t, err, "argument list too long", "addPreviousOutputInEnv")
	inputs["addPreviousOutputInEnv"] = false
	expect(t, e.update(r, inputs).outputs, "stdout", "done")
}

func TestOutputThatIsNotUTF8IsCarriedWithReplacements(t *testing.T) {
	e := startPlugin(t)
	r := e.create(props{"create": `printf 'a\377b\n'; printf '\300' >&2`})
	expect(t, r.outputs, "stdout", "a\uFFFDb")
	expect(t, r.outputs, "stderr", "\uFFFD")
	_, err := e.tryCreate(t.Context(), props{"create": `printf '\377oops' >&2; exit 1`}, false)
	expectError(t, err, "oops")
	for _, line := range e.logged() {
		if !utf8.ValidString(line) {
			t.Errorf("logged %q", line)
		}
	}
}

func TestSecretInputsMakeTheOutputsSecret(t *testing.T) {
	e := startPlugin(t)
	for name, inputs := range map[string]props{
		"create":      {"create": secret("echo s")},
		"stdin":       {"create": "cat", "stdin": secret("s")},
		"environment": {"create": "echo $S", "environment": props{"S": secret("s")}},
	} {
		r := e.create(inputs)
		for _, output := range []string{"stdout", "stderr", name} {
			if !r.outputs[resourceKey(output)].ContainsSecrets() {
				t.Errorf("secret %s: %s is public", name, output)
			}
		}
		if got := r.outputs["stdout"].SecretValue().Element.StringValue(); got != "s" {
			t.Errorf("secret %s: stdout %q", name, got)
		}
	}
	for _, plain := range []props{{"create": "echo p"}, {"create": "echo p", "triggers": []any{secret("s")}}} {
		expect(t, e.create(plain).outputs, "stdout", "p")
	}
}

func TestAnUpdateNeverMakesASecretOutputPublic(t *testing.T) {
	e := startPlugin(t)
	r := e.create(props{"create": secret("echo s")})
	for _, inputs := range []props{{"create": "echo $PULUMI_COMMAND_STDOUT"}, {"delete": "true"}} {
		if stdout := e.update(r, inputs).outputs["stdout"]; !stdout.IsSecret() {
			t.Errorf("%v: stdout %v is public", inputs, stdout)
		}
	}
}

func TestAssetsAndArchiveFollowTheGlobRules(t *testing.T) {
	e := startPlugin(t)
	dir := t.TempDir()
	r := e.create(props{
		// The documentation's own example, made by the command itself.
		"create": "mkdir -p assets/logos src; echo l > assets/logos/logo.svg; echo i > src/index.js; echo s > src/secret.js",
		"dir":    dir, "assetPaths": []any{"assets/**", "src/**.js", "!**secret.*"}, "archivePaths": []any{"src/*"},
	})
	assets := r.outputs["assets"].ObjectValue()
	if len(assets) != 2 {
		t.Errorf("assets %v", assets)
	}
	asset := assets["assets/logos/logo.svg"].AssetValue()
	if content, err := asset.Bytes(); err != nil || string(content) != "l\n" {
		t.Errorf("asset %v: %q, %v", asset, content, err)
	}
	if !assets["src/index.js"].IsAsset() {
		t.Error("src/index.js is missing")
	}
	files, ok := r.outputs["archive"].ArchiveValue().GetAssets()
	if !ok || len(files) != 2 || files["src/index.js"] == nil || files["src/secret.js"] == nil {
		t.Errorf("archive %v", files)
	}

	// As a trigger, as the documentation shows, a changed file replaces.
	inputs := props{"create": "true", "triggers": []any{r.outputs["archive"].ArchiveValue(), asset, "text"}}
	dependent := e.create(inputs)
	if resp := e.diff(dependent, inputs); resp.Changes != rpc.DiffResponse_DIFF_NONE {
		t.Errorf("unchanged archive: %v", resp.DetailedDiff)
	}
	must(t, os.WriteFile(filepath.Join(dir, "src/index.js"), []byte("changed"), 0o600))
	archive := e.update(r, props{"create": "true", "dir": dir, "archivePaths": []any{"src/*"}}).outputs["archive"].ArchiveValue()
	resp := e.diff(dependent, props{"create": "true", "triggers": []any{archive, asset, "text"}})
	if len(resp.Replaces) != 1 {
		t.Errorf("changed archive: %v", resp.DetailedDiff)
	}
}

func TestPathsThatMatchNothingGiveEmptyAssetsAndArchive(t *testing.T) {
	r := startPlugin(t).create(props{
		"create": "true", "dir": t.TempDir(), "assetPaths": []any{"*.none"}, "archivePaths": []any{"*.none"},
	})
	if assets := r.outputs["assets"]; !assets.IsObject() || len(assets.ObjectValue()) != 0 {
		t.Errorf("assets %v", assets)
	}
	if !r.outputs["archive"].IsArchive() {
		t.Errorf("archive %v", r.outputs["archive"])
	}
}

func TestRunInvokesTheCommandAndKeepsSecrets(t *testing.T) {
	e := startPlugin(t)
	invoke := func(args props) (resource.PropertyMap, error) {
		resp, err := e.client.Invoke(t.Context(), &rpc.InvokeRequest{Tok: "command:local:run", Args: e.marshal(args)})
		if err != nil {
			return nil, err
		}
		return e.unmarshal(resp.Return), nil
	}
	result, err := invoke(props{"command": "cat; echo e >&2", "stdin": "in"})
	must(t, err)
	expect(t, result, "stdout", "in")
	expect(t, result, "stderr", "e")
	expect(t, result, "command", "cat; echo e >&2")
	result, err = invoke(props{"command": "cat", "stdin": secret("in")})
	must(t, err)
	if !result["stdout"].IsSecret() {
		t.Error("stdout is public")
	}
	_, err = invoke(props{"command": "echo no >&2; exit 2"})
	expectError(t, err, "exit status 2", "no")
	_, err = invoke(props{"command": "true", "logging": "loud"})
	expectError(t, err, "logging", "loud")
}
