package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const status = "Name:\tx\nCapBnd:\t000001fffeffffff\nCapAmb:\t0\n" // all but bit 24

func TestMissingNamesWhatTheBoundingSetLacks(t *testing.T) {
	lacking, err := missing(status)
	if err != nil || len(lacking) != 1 || !lacking["CAP_SYS_RESOURCE"] {
		t.Fatalf("got %v, %v", lacking, err)
	}
}

func TestMissingRefusesAStatusWithoutBoundingSet(t *testing.T) {
	if _, err := missing("Name:\tx\n"); err == nil {
		t.Fatal("no error")
	}
}

func TestFilesAreTheBundleOfACreateAndTheProcessOfAnExec(t *testing.T) {
	create := files([]string{"--root", "/r", "create", "--bundle", "/b", "id"})
	exec := files([]string{"exec", "--process=/p.json", "id"})
	if !slices.Equal(create, []string{"/b/config.json"}) || !slices.Equal(exec, []string{"/p.json"}) {
		t.Fatalf("got %v, %v", create, exec)
	}
}

func TestRewriteDropsOnlyWhatIsLackingAndKeepsLargeNumbers(t *testing.T) {
	for name, c := range map[string]struct{ before, after string }{
		"config.json": {
			`{"linux":{"m":9223372036854775807},"process":{"capabilities":{"bounding":["CAP_KILL","CAP_SYS_RESOURCE"]}}}`,
			`{"linux":{"m":9223372036854775807},"process":{"capabilities":{"bounding":["CAP_KILL"]}}}`,
		},
		"process.json": {
			`{"args":["a"],"capabilities":{"effective":["CAP_SYS_RESOURCE"],"permitted":null}}`,
			`{"args":["a"],"capabilities":{"effective":[],"permitted":null}}`,
		},
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := rewrite(path, map[string]bool{"CAP_SYS_RESOURCE": true}); err != nil {
			t.Fatal(err)
		}
		if after, _ := os.ReadFile(path); string(after) != c.after {
			t.Errorf("%s: got %s", name, after)
		}
	}
}
