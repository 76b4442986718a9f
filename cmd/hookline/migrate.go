package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/migrations"
)

const envRolePassword = "ROLE_PASSWORD"

func migrate(ctx context.Context, args []string, _, stderr io.Writer) error {
	fs := newFlags("migrate")
	business := fs.String("business", "", "`DSN` of the business tables' database")
	ledger := fs.String("ledger", "", "`DSN` of the ledger's database, which may be the same")
	if _, err := parse(fs, args, 0, "migrate [--business DSN] [--ledger DSN]",
		"Applies the migrations that are missing. With "+envRolePassword+" set, the services' roles are let in with it."); err != nil {
		return err
	}
	if *business == "" && *ledger == "" {
		return wrongUsage("--business or --ledger is missing")
	}
	for _, each := range []struct {
		dsn   string
		set   migrations.Set
		roles []string
	}{
		{*business, migrations.Business, []string{migrations.RoleAPI, migrations.RoleReader, migrations.RoleCDC}},
		{*ledger, migrations.Ledger, []string{migrations.RoleWorker}},
	} {
		if each.dsn == "" {
			continue
		}
		if err := postgres.CheckDSN(each.dsn); err != nil {
			return wrongUsage("--%s: %s", each.set, err)
		}
		version, err := migrations.Up(ctx, each.dsn, each.set)
		if err != nil {
			return err
		}
		fmt.Fprintf(stderr, "the %s tables are at version %d\n", each.set, version)
		if password := os.Getenv(envRolePassword); password != "" {
			if err := setPasswords(ctx, each.dsn, each.roles, password); err != nil {
				return err
			}
		}
	}
	return nil
}

func setPasswords(ctx context.Context, dsn string, roles []string, password string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return errors.New("connecting to set the roles' passwords: the database cannot be reached")
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, role := range roles {
		if err := migrations.SetPassword(ctx, conn, role, password); err != nil {
			return err
		}
	}
	return nil
}
