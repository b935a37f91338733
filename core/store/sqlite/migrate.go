package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema up to the newest that this program knows, each step
// in a transaction of its own. There is no way back down: an older program
// refuses the file.
func migrate(ctx context.Context, o *Options, db *sql.DB) error {
	if err := refuseForeign(ctx, o.Path, db); err != nil {
		return err
	}
	steps, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("read embedded migrations: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, steps,
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("read embedded migrations: %w", err)
	}
	current, newest, err := p.GetVersions(ctx)
	if err != nil {
		return openError(o.Path, err)
	}
	if current > newest {
		return fmt.Errorf("open database %s: its schema is version %d and this program knows versions up to %d; use a newer program", o.Path, current, newest)
	}
	done, err := p.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrate database %s: %w", o.Path, err)
	}
	for _, r := range done {
		o.Logger.Info().Int64("version", r.Source.Version).Dur("duration", r.Duration).Msg("Database schema migrated")
	}
	return nil
}

const (
	countTablesSQL  = `SELECT count(*) FROM sqlite_master WHERE type = 'table'`
	findVersionsSQL = `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'goose_db_version'`
)

// refuseForeign keeps the tables of the server out of another program's database.
func refuseForeign(ctx context.Context, path string, db *sql.DB) error {
	var tables, versions int
	if err := db.QueryRowContext(ctx, countTablesSQL).Scan(&tables); err != nil {
		return openError(path, err)
	}
	if err := db.QueryRowContext(ctx, findVersionsSQL).Scan(&versions); err != nil {
		return openError(path, err)
	}
	if tables > 0 && versions == 0 {
		return fmt.Errorf("open database %s: it belongs to another program (it has tables but no schema version); check the path", path)
	}
	return nil
}
