"""What an MI reward can give, and where it breaks: guided decoding."""
