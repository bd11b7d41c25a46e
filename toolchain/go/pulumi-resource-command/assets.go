package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gobwas/glob"
	"github.com/pulumi/pulumi-go-provider/infer/types"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
)

// rule is one glob; the last rule that matches a path decides.
type rule struct {
	glob    glob.Glob
	exclude bool
}

func compileRules(patterns []string) ([]rule, error) {
	var rules []rule
	for _, pattern := range patterns {
		positive, exclude := strings.CutPrefix(pattern, "!")
		compiled, err := glob.Compile(positive, '/')
		if err != nil {
			return nil, fmt.Errorf("%q is not a glob: %w", pattern, err)
		}
		rules = append(rules, rule{compiled, exclude})
	}
	return rules, nil
}

// findFiles lists the regular files under dir that the patterns select, as
// slash-separated paths relative to dir.
func findFiles(dir string, patterns []string) ([]string, error) {
	rules, err := compileRules(patterns)
	if err != nil {
		return nil, err
	}
	start := dir
	if start == "" {
		start = "."
	}
	var found []string
	err = filepath.WalkDir(start, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(start, path)
		if err != nil {
			return err
		}
		relative = filepath.ToSlash(relative)
		selected := false
		for _, rule := range rules {
			if rule.glob.Match(relative) {
				selected = !rule.exclude
			}
		}
		// A symbolic link counts as what it points to; a dangling one is no file.
		if selected {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				found = append(found, relative)
			}
		}
		return nil
	})
	return found, err
}

// collect adds the files that the options ask for. Both outputs stay unset if
// nothing was asked for, and are empty if nothing was found.
func (o *Outputs) collect(opts Options) error {
	if opts.AssetPaths != nil {
		files, err := findFiles(opts.dir(), opts.AssetPaths)
		if err != nil {
			return fmt.Errorf("assetPaths: %w", err)
		}
		o.Assets = map[string]*types.AssetOrArchive{}
		for _, file := range files {
			asset, err := resource.NewPathAsset(filepath.Join(opts.dir(), file))
			if err != nil {
				return fmt.Errorf("assetPaths: %w", err)
			}
			o.Assets[file] = &types.AssetOrArchive{Asset: asset}
		}
	}
	if opts.ArchivePaths != nil {
		files, err := findFiles(opts.dir(), opts.ArchivePaths)
		if err != nil {
			return fmt.Errorf("archivePaths: %w", err)
		}
		content := map[string]any{}
		for _, file := range files {
			asset, err := resource.NewPathAsset(filepath.Join(opts.dir(), file))
			if err != nil {
				return fmt.Errorf("archivePaths: %w", err)
			}
			content[file] = asset
		}
		if o.Archive, err = resource.NewAssetArchive(content); err != nil {
			return fmt.Errorf("archivePaths: %w", err)
		}
	}
	return nil
}
