package server

import (
	"context"
	"fmt"

	"github.com/plugboard/plugboard/config"
)

// Reload takes from a configuration what can change while clients stay connected:
// plugins.settings, plugins.grants and plugins.access. Then it looks at the plugins
// directory, and returns when what it found there serves, or has failed. Everything
// else takes effect at the next start. A configuration that is refused changes
// nothing.
func (s *Server) Reload(ctx context.Context, cfg config.Config) error {
	settings, err := pluginSettings(cfg.Plugins.Settings)
	if err != nil {
		return err
	}
	if err := s.commands.SetAccess(policies(cfg.Plugins.Access)); err != nil {
		return fmt.Errorf("read plugins.access: %w", err)
	}
	if err := s.plugins.Configure(settings, cfg.Plugins.Grants); err != nil {
		return err
	}
	return s.plugins.Reload(ctx)
}
