import { testUploads } from './uploads.ts'

testUploads('chunks')
