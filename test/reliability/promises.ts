/** What the library promises, and the rows of the catalogue of faults that prove it. A row is named by tests as `[D01]`. */
export interface Promised {
  readonly id: string
  readonly sentence: string
  readonly rows: readonly string[]
}

export const promises: readonly Promised[] = [
  {
    id: 'R1',
    sentence: 'An acknowledged chunk survives SIGKILL at any later instant and counts after the restart.',
    rows: ['D01', 'D02', 'D03', 'D05', 'I01'],
  },
  {
    id: 'R2',
    sentence: "With `durability: 'power'` an acknowledged chunk survives a power cut, and so do uploads and results.",
    rows: ['D09', 'D10', 'E02'],
  },
  {
    id: 'R3',
    sentence: 'A chunk that was not acknowledged is absent or whole, never partly counted.',
    rows: ['D01', 'D02', 'E01', 'E07'],
  },
  {
    id: 'R4',
    sentence:
      'The object has exactly the bytes of the acknowledged chunks in order, and its length is the declared one; or there is no object.',
    rows: ['A05', 'C01', 'F02', 'B16'],
  },
  {
    id: 'R5',
    sentence: 'Completion is atomic: one key per upload, nobody sees a part of the object.',
    rows: ['C06', 'E08', 'F11'],
  },
  {
    id: 'R6',
    sentence: 'Repeating a completion, also from fifty clients at once or after a restart, gives the same URL.',
    rows: ['C01', 'C06', 'C07'],
  },
  {
    id: 'R7',
    sentence: 'A failed completion loses nothing and can be repeated.',
    rows: ['C05', 'E01', 'F01', 'F06'],
  },
  {
    id: 'R8',
    sentence: 'An ambiguous answer of the storage is resolved by looking, never by guessing.',
    rows: ['F02', 'F03', 'F04', 'F13'],
  },
  {
    id: 'R9',
    sentence:
      'Cleaning up never removes a live upload, nor anything that is not ours, and finds what dead processes left.',
    rows: ['C10', 'C11', 'F10', 'D04'],
  },
  {
    id: 'R10',
    sentence:
      'The same chunk twice counts once; of two different ones the last whole one counts or is refused, never a mix.',
    rows: ['C01', 'C02', 'C08'],
  },
  {
    id: 'R11',
    sentence: 'For one upload every history of calls in one process is linearizable.',
    rows: ['C01', 'C02', 'C03', 'C04', 'C09'],
  },
  {
    id: 'R12',
    sentence: 'The same holds for several processes on one `tempDir` and for several nodes with Redis.',
    rows: ['C06', 'C07', 'G03', 'G04', 'G09'],
  },
  {
    id: 'R13',
    sentence: 'No input, broken line or failing dependency ends the process.',
    rows: ['A07', 'B02', 'E04', 'F12', 'A14'],
  },
  {
    id: 'R14',
    sentence:
      'Memory per request is bounded whatever the size of a chunk, and so are open files, timers and `tempDir`.',
    rows: ['D07', 'H01', 'H02', 'H03', 'H04', 'H07'],
  },
  {
    id: 'R15',
    sentence: 'A slow disk or a slow storage slows the client; it fills neither memory nor disk.',
    rows: ['E09', 'H05'],
  },
  {
    id: 'R16',
    sentence: 'Every request ends: a silent body, a storage that hangs and a long chunk each have a deadline.',
    rows: ['B04', 'F08', 'G02', 'I04'],
  },
  {
    id: 'R17',
    sentence: '`close()` refuses new work, lets running work end, stops every timer, and the process ends by itself.',
    rows: ['D06', 'H07'],
  },
  {
    id: 'R18',
    sentence: 'Every error has a stable code and a fitting status, and tells nothing of the inside or of other people.',
    rows: ['A01', 'A02', 'A03', 'B06', 'B07', 'B08', 'H06'],
  },
  {
    id: 'R19',
    sentence:
      'Progress counts what is stored, never goes back but by expiry, and after a restart is at least what was acknowledged.',
    rows: ['C03', 'D01'],
  },
  {
    id: 'R20',
    sentence: 'What is on disk has a version: a newer one is refused and never deleted, a damaged one is set aside.',
    rows: ['A13', 'D08', 'I05'],
  },
  {
    id: 'R21',
    sentence: 'An outage of the session store is 503 or 423, never 404: no client is told to forget its upload.',
    rows: ['A14', 'G01', 'G05', 'G06'],
  },
]

/** Every row of the catalogue: hostile input, protocols, races, crashes, disks, S3, Redis, resources, operation. */
const counts = { A: 14, B: 16, C: 11, D: 10, E: 10, F: 13, G: 9, H: 7, I: 6 } as const
export const rows: readonly string[] = Object.entries(counts).flatMap(([letter, count]) =>
  Array.from({ length: count }, (_, i) => `${letter}${String(i + 1).padStart(2, '0')}`),
)
