"""What the user names becomes numbered frames."""
