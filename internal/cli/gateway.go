package cli

import (
	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/internal/registry"
)

func (a *app) gatewayCommand() *cobra.Command {
	c := group("gateway", "Look after the connection between PostgreSQL and the sidecar")
	c.AddCommand(&cobra.Command{
		Use:   "rotate",
		Short: "Give the gateway a new password and signing key",
		Long: `Gives the gateway a new password and signing key, in the foreign server's user mapping and in the sidecar. Sessions that are open go on by
themselves; nobody has to reconnect.`,
		Example: "  rowcast gateway rotate",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pool, err := a.connect(cmd.Context(), a.warning)
			if err != nil {
				return err
			}
			defer pool.Close()
			if err := registry.NewCatalog(pool).RotateGateway(cmd.Context()); err != nil {
				return err
			}
			printf(a.out, "The gateway has a new password and signing key.\n")
			return nil
		},
	})
	return c
}
