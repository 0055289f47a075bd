//! Texts of the simulated service.

pub(super) const VOICES: &[&str] =
    &["Zoë", "Łukasz", "Jürgen", "Aoife", "美咲", "Ayşe", "Marie-Noëlle", "O'Brien", "Sam"];

#[rustfmt::skip]
pub(super) const ERRORS: &[&str] = &[
    "429 Too Many Requests: {} requests in flight, the plan allows fewer",
    "Voice limit reached: all {} slots of the account are taken",
    "Sample too short: {} s of speech found, more is needed",
    "No answer from the voice API within {} s",
    "HTTP 500 from the voice API: {\"detail\": {\"status\": \"internal_error\", \"attempt\": {}}}",
    "More than one speaker in the sample (“{} segments”)",
];

/// Errors of the voice API in its bad hour.
pub(super) const OUTAGE: &[&str] = &["HTTP 503 from the voice API, tried {} times"];

/// A language, and the sentences of agents and of callers in it; `{}` stands for a number.
pub(super) type Spoken = (&'static str, &'static [&'static str], &'static [&'static str]);

#[rustfmt::skip]
pub(super) const LANGUAGES: [Spoken; 7] = [
    ("en", &["Good morning, thanks for holding. How can I help?", "Could you read me the order number?",
        "I've moved your appointment to {} Elm Street.", "Anything else I can do for you? 🙂"],
        &["Hi, it's about invoice 88{}; I was charged twice.", "It's 47{}, the café one.", "That's my voice!",
        "I've waited {} minutes, and the line said \"almost there\".", "No, that's all. Thanks, bye."]),
    ("de", &["Guten Tag, schön, dass Sie anrufen. Worum geht es?", "Darf ich Ihre Kundennummer hören?",
        "Ich überweise Ihnen {} Euro zurück.", "Größere Schäden prüft ein Kollege vor Ort."],
        &["Grüß Gott, Müller hier, es geht um die Rechnung 88{}.",
        "Die Nummer ist 47{}, die Straße stimmt noch.", "Das hört sich ja an wie ich!",
        "Nein, das wäre alles. Tschüß!"]),
    ("fr", &["Bonjour, que puis-je faire pour vous ?", "Votre numéro de dossier, s'il vous plaît ?",
        "J'ai noté : livraison prévue à {} heures.", "Je vous souhaite une excellente journée !"],
        &["Allô, j'ai reçu le colis n° 88{} abîmé.", "C'est le 47{}, à Saint-Étienne.", "On dirait ma voix…",
        "Où en est mon remboursement de {} € ?", "Parfait, au revoir."]),
    ("es", &["¡Hola! ¿En qué puedo ayudarle?", "¿Me dice el número de pedido, por favor?",
        "Su cita queda para mañana a las {}.", "¡Que tenga un buen día!"],
        &["Llamo por la factura 88{}.", "Es el 47{}, a nombre de Íñigo Muñoz.", "¡Qué raro, suena como yo!"]),
    ("pl", &["Dzień dobry, w czym mogę pomóc?", "Zwrot {} zł już wysłałem.", "Przepraszam za opóźnienie."],
        &["Dzień dobry, chodzi o fakturę 88{}.", "Numer 47{}, ulica Źródlana.", "Brzmi zupełnie jak ja!"]),
    ("tr", &["İyi günler, size nasıl yardımcı olabilirim?", "Özür dilerim, hemen düzeltiyorum."],
        &["Merhaba, 88{} numaralı sipariş gelmedi.", "Bu benim sesim değil mi?", "Teşekkürler, iyi günler."]),
    ("zh", &["您好，请问有什么可以帮您？", "请告诉我您的订单号。", "退款{}元已经处理。"],
        &["你好，我的包裹88{}还没到。", "这声音怎么跟我一样？😮", "好的，谢谢，再见。"]),
];
