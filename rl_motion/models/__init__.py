"""Networks: motion models, TMR and other encoders, text encoders, adapters. One file per network."""
